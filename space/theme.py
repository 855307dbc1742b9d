"""The looks of the page: a light theme with the fonts of the visitor's system; nothing is fetched from elsewhere."""

from pathlib import Path

import gradio as gr

STYLE = Path(__file__).with_name("style.css")
SCRIPT = Path(__file__).with_name("page.js")

THEME = gr.themes.Base(
    primary_hue=gr.themes.colors.indigo,
    secondary_hue=gr.themes.colors.orange,
    neutral_hue=gr.themes.colors.slate,
    radius_size=gr.themes.sizes.radius_lg,
    font=("ui-sans-serif", "system-ui", "Segoe UI", "Roboto", "sans-serif"),
    font_mono=("ui-monospace", "Menlo", "Consolas", "monospace"),
).set(
    body_background_fill="#f7f7fb",
    body_background_fill_dark="#12131a",
    background_fill_primary="#ffffff",
    background_fill_primary_dark="#1b1d27",
    block_background_fill="#ffffff",
    block_background_fill_dark="#1b1d27",
    input_background_fill="#ffffff",
    input_background_fill_dark="#232633",
    input_border_width="1px",
    input_border_color="#cfd3e0",
    input_border_color_dark="#3b3f52",
    block_border_width="0px",
    block_shadow="none",
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
    button_primary_background_fill_dark="*primary_600",
    body_text_color_subdued="*neutral_600",
    color_accent="*primary_600",
    button_primary_text_color="#ffffff",
)

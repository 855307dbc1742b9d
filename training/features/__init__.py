"""From products and queries to what encoders say of them, and to vectors."""

"use strict";
const pool = JSON.parse(document.getElementById("pool").textContent);
const key = `mmfusion-judging-${pool.digest}`;
const at = (id) => document.getElementById(id);
const state = { query: 0, product: 0, grades: new Map(), done: [] };
const pairOf = (query, product) => `${query} ${product}`;
const gradeOf = (query, product) => state.grades.get(pairOf(query, product));

function put(query, product, grade) {
  if (grade === undefined) state.grades.delete(pairOf(query, product));
  else state.grades.set(pairOf(query, product), grade);
}

function keep() {
  try {
    localStorage.setItem(key, JSON.stringify({ query: state.query, rows: rows() }));
  } catch {
    say("This browser keeps nothing for this page: download the grades before you close it.");
  }
}

function rows() {
  return pool.queries.flatMap((query, number) =>
    query.products.map((product) => [query.id, product, gradeOf(number, product)]).filter((row) => row[2] !== undefined));
}

function take(found) {
  const places = new Map(pool.queries.map((query, number) => [query.id, [number, new Set(query.products)]]));
  let taken = 0;
  for (const [query, product, grade] of found) {
    const place = places.get(query);
    if (place && place[1].has(product) && [0, 1, 2, 3].includes(grade)) {
      put(place[0], product, grade);
      taken += 1;
    }
  }
  return taken;
}

function say(text) { at("note").textContent = text; }

function make(name, text, attributes = {}) {
  const element = document.createElement(name);
  element.textContent = text;
  for (const [attribute, value] of Object.entries(attributes)) element.setAttribute(attribute, value);
  return element;
}

function card(id, number) {
  const product = pool.products[id];
  const item = make("li", "", { tabindex: "-1" });
  if (product.image) item.append(make("img", "", { src: product.image, alt: "" }));
  else item.append(make("span", "no picture", { class: "none" }));
  item.append(make("h2", product.title || "(no title)"));
  const fields = make("dl", "", { class: "fields", tabindex: "0", "aria-label": `Listing of product ${number + 1}` });
  for (const [name, value] of product.fields) fields.append(make("dt", `${name}: `), make("dd", value));
  const group = make("div", "", { class: "grades", role: "group", "aria-label": `Grade of product ${number + 1}` });
  for (const [grade, name] of pool.grades) {
    const button = make("button", "", { "data-grade": grade });
    button.append(make("b", grade), document.createTextNode(` ${name}`));
    button.addEventListener("click", () => { move(number, false); give(grade); });
    group.append(button);
  }
  item.append(fields, group);
  item.addEventListener("focusin", () => move(number, false));
  return item;
}

function show() {
  const query = pool.queries[state.query];
  at("query").textContent = query.text;
  at("cards").replaceChildren(...query.products.map(card));
  at("previous").disabled = state.query === 0;
  at("next").disabled = state.query === pool.queries.length - 1;
  paint();
}

function paint() {
  const query = pool.queries[state.query];
  [...at("cards").children].forEach((item, number) => {
    const grade = gradeOf(state.query, query.products[number]);
    item.classList.toggle("current", number === state.product);
    if (grade === undefined) delete item.dataset.grade; else item.dataset.grade = grade;
    item.style.setProperty("--grade", grade === undefined ? "" : `var(--grade${grade})`);
    const told = grade === undefined ? "no grade yet" : `grade ${grade}`;
    item.setAttribute("aria-label", `Product ${number + 1} of ${query.products.length}, ${told}`);
    for (const button of item.querySelectorAll(".grades button")) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.grade) === grade));
    }
  });
  const done = rows().length;
  at("place").textContent = `Query ${state.query + 1} of ${pool.queries.length}`;
  at("count").textContent = `${done} of ${pool.pairs} pairs`;
  at("bar").value = done / pool.pairs;
  at("undo").disabled = state.done.length === 0;
}

function move(number, focus = true) {
  const items = at("cards").children;
  if (number < 0 || number >= items.length) return;
  if (number !== state.product) { state.product = number; paint(); }
  if (focus) {
    items[number].focus({ preventScroll: true });
    items[number].scrollIntoView({ block: "nearest" });
  }
}

function go(query, product = 0) {
  if (query < 0 || query >= pool.queries.length) return;
  state.query = query;
  state.product = product;
  show();
  keep();
  window.scrollTo(0, 0);
  move(product);
}

function give(grade) {
  const query = pool.queries[state.query], product = query.products[state.product];
  state.done.push([state.query, product, gradeOf(state.query, product)]);
  put(state.query, product, grade);
  keep();
  at("said").textContent = `Product ${state.product + 1}: grade ${grade}`;
  paint();
  const open = (number) => gradeOf(state.query, query.products[number]) === undefined;
  const numbers = query.products.map((_, number) => number);
  const next = numbers.find((number) => number > state.product && open(number)) ?? numbers.find(open);
  if (next !== undefined) move(next);
  else if (rows().length === pool.pairs) say("All pairs are graded. Download the grades.");
  else if (state.query + 1 < pool.queries.length) say("This query is done: press N for the next one.");
}

function undo() {
  const last = state.done.pop();
  if (!last) return;
  const [query, product, grade] = last;
  put(query, product, grade);
  say("");
  go(query, pool.queries[query].products.indexOf(product));
}

function firstOpen() {
  for (let step = 0; step < pool.queries.length; step += 1) {
    const query = (state.query + step) % pool.queries.length;
    const product = pool.queries[query].products.findIndex((id) => gradeOf(query, id) === undefined);
    if (product >= 0) return go(query, product);
  }
}

function columns() {
  const tops = [...at("cards").children].map((item) => item.offsetTop);
  return Math.max(1, tops.filter((top) => top === tops[0]).length);
}

function csv(cells) {
  return cells.map((cell) => /[",\r\n]|^\s|\s$/.test(cell) ? `"${String(cell).replaceAll('"', '""')}"` : cell).join(",");
}

function parse(text) {
  const found = [];
  let row = [""], quoted = false;
  for (let place = 0; place < text.length; place += 1) {
    const sign = text[place];
    if (quoted) {
      if (sign !== '"') row[row.length - 1] += sign;
      else if (text[place + 1] === '"') { row[row.length - 1] += sign; place += 1; }
      else quoted = false;
    } else if (sign === '"' && row[row.length - 1] === "") quoted = true;
    else if (sign === ",") row.push("");
    else if (sign === "\n") { found.push(row); row = [""]; }
    else if (sign !== "\r") row[row.length - 1] += sign;
  }
  if (row.length > 1) found.push(row);
  return found;
}

function save() {
  const lines = [["query-id", "corpus-id", "grade"], ...rows()].map(csv);
  const address = URL.createObjectURL(new Blob([lines.join("\n"), "\n"], { type: "text/csv" }));
  make("a", "", { href: address, download: `grades-${pool.digest.slice(0, 8)}.csv` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
  say("");
}

async function load(input) {
  const [file] = input.files;
  if (!file) return;
  const [head, ...found] = parse((await file.text()).replace(/^\ufeff/, ""));
  const places = ["query-id", "corpus-id", "grade"].map((name) => head.indexOf(name));
  input.value = "";
  if (places.includes(-1)) return say("That file lacks the columns query-id, corpus-id and grade, with commas between.");
  const given = found.filter((row) => row[places[2]]).map((row) => [row[places[0]], row[places[1]], Number(row[places[2]])]);
  const taken = take(given);
  state.done = [];
  show();
  keep();
  say(`${taken} grades loaded` + (taken < given.length ? `, ${given.length - taken} are not of this pool.` : "."));
}

at("previous").addEventListener("click", () => { say(""); go(state.query - 1); });
at("next").addEventListener("click", () => { say(""); go(state.query + 1); });
at("open").addEventListener("click", () => { say(""); firstOpen(); });
at("undo").addEventListener("click", undo);
at("save").addEventListener("click", save);
at("load").addEventListener("change", (event) => load(event.target));
document.addEventListener("keydown", (event) => {
  if (event.altKey || event.metaKey || (event.ctrlKey && event.key.toLowerCase() !== "z")) return;
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns(), ArrowUp: -columns() };
  const keys = { n: at("next"), p: at("previous"), u: at("undo"), z: at("undo"), backspace: at("undo") };
  const name = event.key.toLowerCase();
  if ("0123".includes(event.key)) give(Number(event.key));
  else if (event.key in steps) move(state.product + steps[event.key]);
  else if (Object.hasOwn(keys, name) && (name !== "z" || event.ctrlKey)) keys[name].click();
  else return;
  event.preventDefault();
});

try {
  const kept = JSON.parse(localStorage.getItem(key));
  if (kept) {
    take(kept.rows);
    state.query = Math.min(kept.query, pool.queries.length - 1);
  }
} catch {
  say("Grades of an earlier visit can't be read: load the file that you downloaded.");
}
show();

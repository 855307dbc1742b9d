// The browser's side of the search tab. gradio calls this with the tab's `element` and the `server` functions of page.py.
//
// The form holds all that is asked for; its address is what is sent, what the address bar shows and what Back brings
// again. Every request has a number, and an answer is shown only if no later one was asked: so the page always shows
// what belongs to the last thing done, whatever is slow.

const AT_ONCE = 3; // searches in flight; the newest that waits goes next, those between are not asked for any more
const MAX_BYTES = 20e6;
const PICTURE_SIDE = 768; // a picture is made as small before it is sent
const SKELETON_MS = 120;
const DEFAULTS = {like: '', but: '', weight: '0.5', low: '', high: '', presence: 'any', show: 'side', k: '8', where: 'shop'};
const LISTS = ['category', 'brand'];
const KNOWN = ['q', ...Object.keys(DEFAULTS), ...LISTS];
const LOST = `<div class='state problem' role='alert'><p><b>The server did not answer.</b> Try again in a moment.</p></div>`;

const find = (selector, from = element) => from.querySelector(selector);
const all = (selector, from = element) => [...from.querySelectorAll(selector)];
const form = find('#ask'), results = find('#results'), drawer = find('#why'), chosen = find('#chosen');
const box = form.elements.q;
const opening = box.value;
const visitor = history.state?.visitor ?? [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, '0')).join('');

let newest = 0; // number of the last search asked for
let openings = 0; // and of the last product opened
let brought = history.state?.brought ?? 0; // and of the last file of products
let yours = Promise.resolve(brought); // the file that can be searched, once it was read
let offered = null; // the file of products that was chosen last
let picture = null; // {id, ready: promise of a Blob, address}
let shown = null; // the request and picture that the results belong to
let place = 'shop'; // whose filters are there
let last = ''; // what was asked last, as an address
const pictures = new Map(), titles = new Map(), flying = new Set();

// The form, as an address and back ------------------------------------------------------------------------------------

const asked = () => new URLSearchParams(
  [...new FormData(form)].filter(([name, value]) => name === 'q' || (value !== '' && value !== DEFAULTS[name])));

function fill(parameters) {
  box.value = parameters.has('q') || parameters.has('like') ? parameters.get('q') ?? '' : opening;
  for (const [name, value] of Object.entries(DEFAULTS)) {
    if (form.elements[name]) form.elements[name].value = parameters.get(name) ?? value;
  }
  chosen.replaceChildren();
  for (const name of LISTS) parameters.getAll(name).forEach((value) => choose(name, value));
  for (const name of ['low', 'high']) if (parameters.get(name)) choose(name, parameters.get(name));
  if (parameters.get('presence')) choose('presence', parameters.get('presence'));
}

function choose(name, value) {
  const words = {low: `from ${value}`, high: `to ${value}`}[name] ?? value;
  const chip = document.createElement('span');
  chip.className = 'chosen';
  chip.dataset.name = name;
  chip.textContent = words;
  if (name !== 'presence') chip.append(Object.assign(document.createElement('input'), {type: 'hidden', name, value}));
  const away = Object.assign(document.createElement('button'), {type: 'button', textContent: '✕'});
  away.setAttribute('aria-label', `Take the filter ${words} away`);
  chip.append(away);
  chosen.append(chip);
}

const chips = (name) => all(`.chosen[data-name=${name}]`);
const values = (name) => chips(name).map((chip) => find('input', chip).value);
const clear = (...names) => names.forEach((name) => chips(name).forEach((chip) => chip.remove()));

// Filters and products that others are to be like are those of one catalogue
function leave() {
  clear(...LISTS, 'low', 'high');
  form.elements.like.value = form.elements.but.value = '';
}

// What depends on the form: the boxes in the popovers, their counts, the rows of the search box
function follow() {
  for (const name of LISTS) {
    const ticked = values(name);
    all(`input[data-name=${name}]`).forEach((one) => { one.checked = ticked.includes(one.value); });
  }
  for (const name of ['low', 'high']) all(`input[data-name=${name}]`).forEach((one) => { one.value = values(name)[0] ?? ''; });
  for (const [of, names] of [['category', ['category']], ['brand', ['brand']], ['price', ['low', 'high']]]) {
    const summary = find(`.pop[data-of=${of}] summary`);
    if (summary) summary.dataset.count = names.flatMap(values).length || '';
  }
  find('#yours summary').textContent = form.elements.where.value === 'yours' ? 'In: your products' : 'Your products';
  find('#clear').hidden = chosen.children.length < 2;
  const like = form.elements.like.value, held = find('#held');
  held.replaceChildren();
  if (like) held.append(holder(null, `like ${titles.get(like) ?? 'this'}`, 'Search for something else'));
  if (picture) held.append(holder(picture.address, 'your picture', 'Take the picture away'));
  find('#but').hidden = !like;
  find('#mixing').hidden = !(like || (picture && box.value.trim()));
}

function holder(address, words, label) {
  const chip = document.createElement('span');
  chip.className = 'holder';
  if (address) chip.append(Object.assign(document.createElement('img'), {src: address, alt: ''}));
  chip.append(Object.assign(document.createElement('span'), {textContent: words}));
  const away = Object.assign(document.createElement('button'), {type: 'button', textContent: '✕'});
  away.setAttribute('aria-label', label);
  chip.append(away);
  return chip;
}

function remember(parameters, push) {
  const address = new URLSearchParams([...new URLSearchParams(location.search)].filter(([name]) => !KNOWN.includes(name)));
  parameters.forEach((value, name) => address.append(name, value));
  const state = {...history.state, visitor, brought, picture: picture?.id ?? null};
  const moved = `${parameters}` !== last || (history.state?.picture ?? null) !== state.picture;
  last = `${parameters}`;
  history[push && moved ? 'pushState' : 'replaceState'](state, '', `?${address}`);
  // a Space is shown in a frame; the page around it takes over the address
  if (parent !== window) parent.postMessage({queryString: `?${address}`}, 'https://huggingface.co');
}

// Asking --------------------------------------------------------------------------------------------------------------

async function call(name, request, file) {
  return server[name](file ? {binary: true, data: {request: JSON.stringify(request), file}} : request);
}

function requestOf(parameters) {
  const request = Object.fromEntries(parameters);
  for (const name of LISTS) request[name] = parameters.getAll(name);
  return {...request, visitor};
}

async function ask({push = true} = {}) {
  const number = ++newest, held = picture;
  const isNewest = () => number === newest;
  shut();
  follow();
  const parameters = asked();
  remember(parameters, push);
  wait(isNewest);
  const [file] = await Promise.all([held?.ready, parameters.get('where') === 'yours' ? yours : null]);
  while (isNewest() && flying.size >= AT_ONCE) await Promise.race(flying);
  if (!isNewest()) return;
  const request = requestOf(parameters), flight = call('search', {...request, have: place}, file);
  flying.add(flight);
  const answer = await flight.catch(() => null);
  flying.delete(flight);
  if (isNewest()) show(answer, {request, file});
}

function wait(isNewest) {
  results.inert = true;
  results.setAttribute('aria-busy', 'true');
  find('#status').textContent = 'Searching …';
  setTimeout(() => {
    if (isNewest() && results.inert) results.replaceChildren(find('#waiting').content.cloneNode(true));
  }, SKELETON_MS);
}

function show(answer, asking) {
  shown = asking;
  if (answer?.choices) find('#choices').innerHTML = answer.choices;
  if (answer?.place) place = answer.place;
  if (answer?.like) titles.set(asking.request.like, answer.like);
  results.innerHTML = answer?.board ?? LOST;
  results.inert = false;
  results.removeAttribute('aria-busy');
  const said = find('#results .state:not([role=alert])'), found = all('#results .lane.fused .card').length;
  find('#status').textContent = said ? said.textContent : found ? `${found} results` : '';
  follow();
  if (results.getBoundingClientRect().top < 0) results.scrollIntoView();
}

// Pictures and products of one's own ----------------------------------------------------------------------------------

// Small, upright and on white; what the browser can't read goes as it is, and the server says what is wrong with it
async function madeSmall(file) {
  try {
    const bitmap = await createImageBitmap(file), scale = Math.min(1, PICTURE_SIDE / Math.max(bitmap.width, bitmap.height));
    const canvas = document.createElement('canvas');
    canvas.width = Math.max(1, Math.round(scale * bitmap.width));
    canvas.height = Math.max(1, Math.round(scale * bitmap.height));
    const paper = canvas.getContext('2d');
    paper.fillStyle = 'white';
    paper.fillRect(0, 0, canvas.width, canvas.height);
    paper.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    bitmap.close();
    return await new Promise((done) => canvas.toBlob((blob) => done(blob ?? file), 'image/jpeg', 0.92));
  } catch {
    return file;
  }
}

function give(file) {
  if (file.size > MAX_BYTES) return refuse('A query picture has at most 20 MB; give a smaller one.');
  picture = {id: Math.random().toString(36).slice(2), ready: madeSmall(file), address: URL.createObjectURL(file)};
  pictures.set(picture.id, picture);
  Object.assign(form.elements.like, {value: ''});
  if (box.value === opening) box.value = '';
  ask();
}

// A file that is refused before it is sent is the last thing done all the same
function refuse(words) {
  newest += 1;
  shut();
  show({board: LOST}, shown);
  find('#results p').replaceChildren(words);
}

function bring(file, columns = {}) {
  brought = Math.max(brought + 1, Date.now()); // also after a reload the last file has the highest number
  const number = brought, before = yours, where = form.elements.where.value;
  find('#yours').open = true; // where its reading is seen
  const report = (html) => { find('#report').innerHTML = html; };
  if (file.size > MAX_BYTES) {
    report(LOST);
    find('#report p').replaceChildren('A file of products has at most 20 MB; give a smaller one.');
    return;
  }
  report('<p></p><progress max="1"></progress>');
  find('#report p').textContent = `Reading ${file.name} …`;
  const seen = setInterval(async () => {
    const done = (await call('progress', {visitor}))?.done, bar = find('#report progress');
    if (number === brought && bar && done != null) bar.value = done;
  }, 500);
  find('#forget').hidden = true;
  offered = file;
  yours = call('bring', {visitor, number, columns}, file).catch(() => null).then((answer) => {
    clearInterval(seen);
    if (number !== brought) return yours;
    report(answer?.report ?? LOST);
    find('#forget').hidden = !answer?.ready;
    if (answer?.ready) return number;
    yours = before; // nothing came of it: back to where the search was
    if (form.elements.where.value === 'yours') {
      form.elements.where.value = where;
      ask({push: false});
    }
    return before;
  });
  form.elements.where.value = 'yours';
  leave();
  ask();
}

function forget() {
  brought += 1;
  yours = Promise.resolve(0);
  find('#report').replaceChildren();
  find('#forget').hidden = true;
  call('forget', {visitor});
  if (form.elements.where.value !== 'yours') return;
  form.elements.where.value = 'shop';
  leave();
  ask();
}

// The drawer ----------------------------------------------------------------------------------------------------------

async function open(card) {
  const number = ++openings, title = find('.title', card).textContent, image = find('.frame img', card);
  titles.set(card.dataset.id, title);
  drawer.replaceChildren(find('#reasons').content.cloneNode(true));
  find('h2', drawer).textContent = title;
  if (image) find('.pictures', drawer).append(image.cloneNode());
  drawer.showModal();
  const answer = await call('why', {...shown.request, id: card.dataset.id, lane: card.closest('.lane').dataset.view}, shown.file).catch(() => null);
  if (number === openings) find('.reasons', drawer).innerHTML = answer?.drawer ?? LOST;
}

function shut() {
  openings += 1;
  if (drawer.open) drawer.close();
}

function like(id, but) {
  box.value = '';
  form.elements.but.value = but;
  form.elements.like.value = id;
  form.elements.weight.value = DEFAULTS.weight;
  picture = null;
  ask();
  results.focus(); // the product that had the focus goes
}

// What a visitor does -------------------------------------------------------------------------------------------------

form.addEventListener('submit', (event) => {
  event.preventDefault();
  if (box.value.trim()) Object.assign(form.elements.like, {value: ''}), Object.assign(form.elements.but, {value: ''});
  ask();
});
box.addEventListener('input', () => {
  find('#mixing').hidden = !(form.elements.like.value || (picture && box.value.trim()));
  if (!box.value && !form.elements.like.value) ask();
});
form.addEventListener('change', ({target}) => {
  if (target.id === 'picture' || target.id === 'file') {
    const file = target.files[0];
    target.value = '';
    if (file) (target.id === 'file' ? bring : give)(file);
  } else if (LISTS.includes(target.dataset.name)) {
    if (target.checked) choose(target.dataset.name, target.value);
    else chips(target.dataset.name).find((chip) => find('input', chip).value === target.value)?.remove();
    ask();
  } else if (target.dataset.name) {
    clear(target.dataset.name);
    if (target.value) choose(target.dataset.name, target.value);
    ask();
  } else if (target.name === 'presence') {
    clear('presence');
    if (target.value !== DEFAULTS.presence) choose('presence', target.value);
    ask();
  } else if (target.name === 'where') {
    leave();
    ask();
  } else if (target !== box && target.name) ask();
});
form.addEventListener('input', ({target}) => {
  if (!target.classList.contains('narrow')) return;
  const words = target.value.toLowerCase();
  all('label', target.parentElement).forEach((label) => { label.hidden = !label.textContent.toLowerCase().includes(words); });
});
form.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (button?.dataset.text !== undefined) {
    box.value = button.dataset.text;
    form.elements.like.value = form.elements.but.value = '';
    picture = null;
    ask();
  } else if (button?.id === 'clear') {
    clear(...LISTS, 'low', 'high', 'presence');
    form.elements.presence.value = DEFAULTS.presence;
    ask();
  } else if (button?.closest('.chosen')) {
    const chip = button.closest('.chosen');
    if (chip.dataset.name === 'presence') form.elements.presence.value = DEFAULTS.presence;
    chip.remove();
    ask();
  } else if (button?.closest('.holder')) {
    picture = null;
    form.elements.like.value = form.elements.but.value = '';
    ask();
    box.focus();
  } else if (button?.id === 'forget') forget();
  else if (button?.id === 'again') {
    bring(offered, Object.fromEntries(all('#report select').map((one) => [one.dataset.field, one.value]).filter(([, column]) => column)));
  }
});
form.addEventListener('dragover', (event) => event.preventDefault());
form.addEventListener('drop', (event) => {
  event.preventDefault();
  const file = event.dataTransfer.files[0];
  if (file) (file.type.startsWith('image/') ? give : bring)(file);
});
box.addEventListener('paste', (event) => {
  const file = [...event.clipboardData.files].find((one) => one.type.startsWith('image/'));
  if (file) event.preventDefault(), give(file);
});

results.addEventListener('click', (event) => {
  const card = event.target.closest('button.card');
  if (card) open(card);
});
const link = (event) => {
  const id = event.type.endsWith('out') ? null : event.target.closest?.('button.card')?.dataset.id;
  all('button.card', results).forEach((card) => card.classList.toggle('linked', card.dataset.id === id));
};
for (const type of ['mouseover', 'mouseout', 'focusin', 'focusout']) results.addEventListener(type, link);

drawer.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (event.target === drawer || button?.classList.contains('close')) shut();
  else if (button?.classList.contains('similar')) like(button.dataset.id, '');
});
drawer.addEventListener('submit', (event) => {
  event.preventDefault();
  like(event.target.dataset.id, event.target.elements.text.value.trim());
});
drawer.addEventListener('close', () => { if (!drawer.open) openings += 1; }); // also by Escape

// One popover is open at a time; a click elsewhere and Escape close it
document.addEventListener('click', (event) => {
  for (const pop of document.querySelectorAll('details.pop[open]')) if (!event.composedPath().includes(pop)) pop.open = false;
});
document.addEventListener('keydown', (event) => {
  const pop = event.key === 'Escape' && document.querySelector('details.pop[open]');
  if (!pop) return;
  pop.open = false;
  find('summary', pop).focus();
});

window.addEventListener('popstate', (event) => {
  picture = pictures.get(event.state?.picture) ?? null;
  fill(new URLSearchParams(location.search));
  ask({push: false});
});

const there = new URLSearchParams(location.search);
last = `${asked()}`;
if (KNOWN.some((name) => there.has(name))) {
  fill(there);
  ask({push: false});
} else {
  show({board: find('#opening').innerHTML}, {request: requestOf(asked()), file: undefined});
}

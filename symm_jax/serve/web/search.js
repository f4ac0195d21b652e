// Searching: the address holds the query, and what the address says is shown.

const TYPES = ["image/jpeg", "image/png", "image/webp", "image/gif"];
const NAMES = ["path", "row", "upload", "box", "class", "k"]; // of the address, as of /api/search
let about = null;
let size = null; // of the whole query picture in pixels, once it is shown
let running = new AbortController();

const basename = (path) => path.slice(path.lastIndexOf("/") + 1);
const asked = () => Object.fromEntries([...new URLSearchParams(location.search)].filter(([name]) => NAMES.includes(name)));
const query = (fields) => new URLSearchParams(Object.entries(fields).filter(([, value]) => value)).toString();

function complain(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

/** A response of this server. Raises an Error that a person can read. */
async function request(url, options = {}) {
  let response;
  try {
    response = await fetch(url, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server cannot be reached.");
  }
  if (response.ok) return response;
  const text = await response.json().then((body) => body.error, () => "");
  throw new Error(text || `The server answered ${response.status}.`);
}

/** Runs a search. A later one takes its place. */
async function run(search) {
  running.abort();
  const mine = (running = new AbortController());
  complain("");
  document.body.classList.add("busy");
  $("announcement").textContent = "Searching";
  try {
    await search(mine.signal);
  } catch (error) {
    if (error.name === "AbortError") return;
    complain(error.message);
  } finally {
    if (running === mine) document.body.classList.remove("busy");
  }
}

/** Searches by what the address says. */
const load = () =>
  run(async (signal) => {
    const fields = asked();
    const named = fields.path || fields.row || fields.upload;
    if (!named) {
      $("answer").hidden = true;
      $("starts-section").hidden = false;
      $("announcement").textContent = "";
      return;
    }
    const found = await (await request(`/api/search?${query({ k: about.k, ...fields })}`, { signal })).json();
    await show(found, signal);
  });

/** Goes to another search. Of the address the class and the number of results stay, if they are not given. */
function go(fields) {
  const { class: label, k } = asked();
  history.pushState(null, "", `?${query({ class: label, k, ...fields })}`);
  return load();
}

/** Changes the search of the address. */
const change = (fields) => go({ ...asked(), ...fields });

/** Searches by a file. */
const send = (file) =>
  run(async (signal) => {
    if (file.size > about.limits.bytes) throw new Error(`The picture has more than ${about.limits.bytes / 2 ** 20} MiB.`);
    const body = new FormData();
    body.append("image", file);
    const { class: label, k } = asked();
    const url = `/api/search?${query({ keep: 1, k: k ?? about.k, class: label })}`;
    const found = await (await request(url, { method: "POST", body, signal })).json();
    history.pushState(null, "", `?${query({ upload: found.query.upload, class: label, k })}`);
    await show(found, signal, file.name);
  });

async function show(found, signal, filename = "") {
  const { path, row, class: label, upload, box } = found.query;
  const name = path ?? (filename || "Your picture");
  size = null;
  setBox(null);
  $("starts-section").hidden = true;
  $("answer").hidden = false;
  if (asked().row) history.replaceState(null, "", `?${query({ ...asked(), row: "", path })}`);
  $("query-title").textContent = label || (path === undefined ? "Your picture" : basename(path));
  $("query-name").textContent = name;
  document.title = `${label || basename(name)} – search by picture`;
  showControls();
  showResults(found.results);
  const part = box ? ", a part of it" : "";
  $("announcement").textContent = `${several(found.results.length, "result", "results")} for ${name}${part}`;
  await showPicture(upload ? `/api/upload/${upload}` : `/api/picture/${row}`, `Query: ${name}`, box, signal);
}

async function showPicture(url, alt, box, signal) {
  const response = await request(url, { signal });
  const blob = await response.blob();
  if (signal.aborted) return;
  size = ["picture-width", "picture-height"].map((header) => Number(response.headers.get(header)));
  URL.revokeObjectURL($("picture").src);
  Object.assign($("picture"), { src: URL.createObjectURL(blob), alt });
  $("stage").setAttribute("aria-label", alt);
  setBox(box && box.map((x, i) => Math.min(x / size[i % 2], 1)));
}

function card(result, rank) {
  const { path, row, class: label, similarity, match } = result;
  const verdict = match === null ? "" : match ? ", match" : ", no match";
  const words = `Result ${rank}, ${label ? `${label}, ` : ""}${path}, similarity ${similarity.toFixed(3)}${verdict}`;
  const kind = match === null ? "plain" : match ? "right" : "wrong";
  const mark = h("span", { class: `badge ${kind}`, "aria-hidden": "true" }, match ? "✓" : "✗");
  const item = h(
    "button",
    { type: "button", class: `neighbour ${kind}`, "aria-label": words, title: path, "data-row": row },
    h("img", { class: "thumb", src: `/api/thumbnail/${row}`, alt: "", width: 256, height: 256, loading: "lazy" }),
    ...(match === null ? [] : [mark]),
    h(
      "span",
      { class: "caption", "aria-hidden": "true" },
      h("span", { class: "name" }, h("span", { class: "rank" }, `${rank} · `), label || basename(path)),
      h("span", { class: "number" }, similarity.toFixed(3)),
      label ? h("span", { class: "where" }, basename(path)) : "",
      match === false ? h("span", { class: "where" }, "no match") : "",
    ),
  );
  item.tabIndex = rank === 1 ? 0 : -1;
  item.addEventListener("click", () => go({ path }));
  return item;
}

function showResults(results) {
  const within = $("neighbours").contains(document.activeElement);
  $("neighbours").replaceChildren(...results.map((result, i) => card(result, i + 1)));
  $("nothing").hidden = results.length > 0;
  if (within) ($("neighbours").firstElementChild ?? $("query")).focus();
}

function showControls() {
  const fields = asked();
  $("class").value = fields.class ?? "";
  const k = fields.k ?? String(about.k);
  if (![...$("k").options].some((option) => option.value === k)) $("k").append(h("option", { value: k }, k));
  $("k").value = k;
}

function showStarts() {
  const rows = new Set();
  while (rows.size < Math.min(8, about.pictures)) rows.add(Math.floor(Math.random() * about.pictures));
  const items = [...rows].map((row, i) => {
    const image = h("img", { class: "thumb", src: `/api/thumbnail/${row}`, alt: "", width: 256, height: 256 });
    const item = h("button", { type: "button", class: "neighbour plain", "aria-label": `Picture ${row + 1}` }, image);
    item.tabIndex = i ? -1 : 0;
    item.addEventListener("click", () => go({ row: String(row) }));
    return item;
  });
  $("starts").replaceChildren(...items);
}

/** Takes the first picture of a drop or a paste. */
function take(files) {
  const file = [...(files ?? [])].find((each) => TYPES.includes(each.type));
  if (file) send(file);
  else complain("This is not a JPEG, PNG, WebP or GIF picture.");
}

function startAsking() {
  $("choose").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", () => {
    if ($("file").files.length) take($("file").files);
    $("file").value = "";
  });
  $("random").addEventListener("click", () => go({ row: String(Math.floor(Math.random() * about.pictures)) }));
  const over = (event, is) => {
    event.preventDefault();
    $("drop").classList.toggle("over", is);
  };
  document.addEventListener("dragover", (event) => over(event, true));
  document.addEventListener("dragleave", (event) => over(event, false));
  document.addEventListener("drop", (event) => {
    over(event, false);
    take(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => event.clipboardData?.files.length && take(event.clipboardData.files));
  $("class").addEventListener("change", () => change({ class: $("class").value }));
  $("k").addEventListener("change", () => change({ k: $("k").value }));
  addEventListener("popstate", load);
  moveWithArrows($("neighbours"));
  moveWithArrows($("starts"));
}

const pixels = (box) => box.map((x, i) => (i < 2 ? Math.floor : Math.ceil)(x * size[i % 2])).join(",");
const setBox = makeBox(
  () => size !== null,
  (box) => change({ box: box ? pixels(box) : "" }),
);

run(async () => {
  about = await (await request("/api/about")).json();
  const classes = Object.entries(about.classes);
  $("title").textContent = about.folder;
  $("facts").textContent =
    several(about.pictures, "picture", "pictures") +
    (classes.length ? ` of ${several(classes.length, "class", "classes")}` : "");
  $("class").append(...classes.map(([name, count]) => h("option", { value: name }, `${name} (${number(count)})`)));
  $("class").parentElement.hidden = classes.length === 0;
  $("k").append(...[...new Set([about.k, 10, 20, 50, 100])].sort((a, b) => a - b).map((k) => h("option", { value: k }, k)));
  const threshold = about.thresholds?.["0.01"];
  $("key").hidden = threshold === undefined;
  if (threshold !== undefined) $("key-threshold").textContent = `similarity of a match: at least ${threshold.toFixed(3)}`;
  showStarts();
  startAsking();
  await load();
});

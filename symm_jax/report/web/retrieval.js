// Retrieval

let query = null;

function drawStarts() {
  const failing = gallery.failed > 0;
  const separate = gallery.against < gallery.size - 1;
  $("starts-title").textContent = failing ? "Hardest failures" : gallery.queries ? "No failures" : "Some images";
  $("starts-hint").textContent = failing
    ? "Ordered by the number below each: how many images of other classes come before the first of its own."
    : gallery.queries
      ? "Every query's nearest neighbour is of its own class. These are some of them."
      : "Each is alone in its class.";
  $("retrieval-summary").textContent = gallery.queries
    ? `Each of the ${number(gallery.queries)} ${separate ? "queries" : "test images"} that have another of their class ` +
      `is compared with ${number(gallery.against)} ${separate ? "images of the gallery" : "others"}. ` +
      `For ${number(gallery.failed)} of them (${percent(gallery.failed / gallery.queries)}) ` +
      "an image of another class is at least as near as any of their own."
    : "No class has two test images, so no query has a right answer.";
  $("starts").replaceChildren(
    ...gallery.starts.map((id, i) => {
      const ahead = images.ahead[id];
      const caption = ahead > 0 ? `${number(ahead)} before` : ahead === 0 ? "✓ right" : "alone";
      const label = `${nameOf(id)}. ${aheadInWords(id)}`;
      const attributes = { type: "button", "data-row": images.row[id], "aria-label": label, title: label };
      const button = h("button", attributes, thumbnail(id), h("span", { class: "caption" }, caption));
      button.tabIndex = i ? -1 : 0;
      button.addEventListener("click", () => ask(id));
      return button;
    }),
  );
}

function neighbour(id, similarity, rank) {
  const right = images.label[id] === images.label[query];
  const verdict = right ? "right" : "wrong: another class";
  const label = `Neighbour ${rank}, ${verdict}, ${nameOf(id)}, similarity ${similarity.toFixed(3)}`;
  const attributes = {
    class: `neighbour ${right ? "right" : "wrong"}`,
    "data-row": images.row[id],
    "aria-label": isOpen(id) ? label : `${label}; ${CLOSED}`,
    title: isOpen(id) ? `${nameOf(id)}: make it the query` : `${nameOf(id)}: ${CLOSED}`,
  };
  const item = h(
    isOpen(id) ? "button" : "div",
    isOpen(id) ? { ...attributes, type: "button" } : { ...attributes, role: "img" },
    thumbnail(id),
    h("span", { class: right ? "badge right" : "badge wrong", "aria-hidden": "true" }, right ? "✓" : "✗"),
    h(
      "span",
      { class: "caption", "aria-hidden": "true" },
      h("span", { class: "name" }, h("span", { class: "rank" }, `${rank} · `), className(images.label[id])),
      h("span", {}, similarity.toFixed(3)),
    ),
  );
  item.tabIndex = rank === 1 ? 0 : -1;
  if (isOpen(id)) item.addEventListener("click", () => ask(id));
  return item;
}

/** Shows an open image's neighbours; the address and the back button are `ask`'s business. */
function show(id) {
  const within = $("neighbours").contains(document.activeElement);
  query = id;
  $("query").replaceChildren(
    fill(thumbnail(id), { role: "img", "aria-hidden": "false", "aria-label": `Query, ${nameOf(id)}` }, []),
    h("h3", {}, className(images.label[id])),
    h("p", {}, `Query: ${images.name[id]}. ${aheadInWords(id)}`),
  );
  $("query").dataset.row = images.row[id];
  $("neighbours").replaceChildren(
    ...images.neighbours[id].map((other, i) => neighbour(other, images.similarity[id][i], i + 1)),
  );
  if (within) $("neighbours").firstElementChild.focus();
  for (const button of $("starts").children) {
    button.setAttribute("aria-current", button.dataset.row === $("query").dataset.row);
  }
  $("announcement").textContent = `Query: ${nameOf(id)}. ${aheadInWords(id)}`;
  map.draw();
}

const depth = () => history.state?.depth ?? 0;

function ask(id) {
  if (id !== query) history.pushState({ depth: depth() + 1 }, "", `#query=${images.row[id]}`);
  show(id);
  $("back").disabled = depth() === 0;
}

/** The query that the address names, if this page can show it. */
function addressed() {
  const row = /^#query=(\d+)$/.exec(location.hash)?.[1];
  const id = row === undefined ? -1 : images.row.indexOf(Number(row));
  return id >= 0 && isOpen(id) ? id : null;
}

function startRetrieval() {
  drawStarts();
  moveWithArrows($("starts"));
  moveWithArrows($("neighbours"));
  const open = images.row.map((_, id) => id).filter(isOpen);
  $("back").addEventListener("click", () => history.back());
  $("random").addEventListener("click", () => ask(open[Math.floor(Math.random() * open.length)]));
  window.addEventListener("popstate", () => {
    const id = addressed();
    if (id !== null) show(id);
    $("back").disabled = depth() === 0;
  });
  const named = addressed();
  const first = named ?? gallery.starts.find(isOpen) ?? open[0];
  // The first query gets an address too, so that going back can return to it.
  if (named === null) history.replaceState(history.state, "", `#query=${images.row[first]}`);
  show(first);
  $("back").disabled = depth() === 0;
}

// Real and synthetic points

function drawPoints() {
  const { images: pairs, places, axis } = data.points;
  const flat = places.flat();
  const [low, high] = [Math.min, Math.max].map((pick) => [0, 1].map((k) => pick(...flat.map((place) => place[k]))));
  const scale = 600 / (Math.max(high[0] - low[0], high[1] - low[1]) || 1);
  const at = ([x, y]) => [24 + (x - low[0]) * scale, 24 + (high[1] - y) * scale];
  const size = [0, 1].map((k) => 48 + (high[k] - low[k]) * scale);
  const dot = ([cx, cy], i, real, title) =>
    s("circle", { cx, cy, r: 7, "stroke-width": 2, stroke: classColour(i), fill: real ? classColour(i) : "var(--surface)" }, s("title", {}, title));
  const name = (i) => className(images.label[pairs[i][0]]);
  const lines = [];
  const made = [];
  const real = [];
  places.forEach((points, i) => {
    const spots = points.map(at);
    axis[i].forEach((a, k) => {
      const [[x1, y1], [x2, y2]] = [spots[a], spots[k + 2]];
      lines.push(s("line", { x1, y1, x2, y2, stroke: classColour(i), "stroke-opacity": 0.5, "stroke-width": 1.5 }));
      made.push(dot(spots[k + 2], i, false, `${name(i)}, synthetic`));
    });
    pairs[i].forEach((id, k) => real.push(dot(spots[k], i, true, nameOf(id))));
  });
  const title = `Real and synthetic points of ${pairs.length} classes on their first two principal components`;
  const svg = s("svg", { viewBox: `0 0 ${size[0]} ${size[1]}`, role: "img", "aria-label": title }, ...lines, ...made, ...real);
  const key = (i, filled) => s("svg", { viewBox: "-9 -9 18 18", "aria-hidden": "true" }, dot([0, 0], i, filled, ""));
  const classes = pairs.map((pair, i) => h("li", {}, key(i, true), ...pair.map(thumbnail), h("span", { class: "name" }, name(i))));
  const grey = data.map.colours - 1;
  $("points-plot").replaceChildren(
    svg,
    h("ul", {}, h("li", { class: "key" }, key(grey, true), "real"), h("li", { class: "key" }, key(grey, false), "synthetic"), ...classes),
  );
  $("points-summary").textContent =
    `What the loss sees of a batch: the embeddings of two images of each of ${several(pairs.length, "test class", "test classes")} ` +
    "(filled), and the synthetic points made of them (hollow), each joined to the real point nearest to it. All are " +
    "of unit length and shown on their first two principal components.";
}

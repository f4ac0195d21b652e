// Map

const map = (() => {
  const canvas = $("plot");
  const tip = $("tip");
  const readout = $("map-readout");
  const ids = data.map.images;
  const classes = [...new Set(images.label)].sort((a, b) => a - b);
  const looks = data.map.colours * data.map.shapes;
  const look = new Map(classes.map((label, i) => [label, i % looks]));
  let places = [];
  let active = -1;
  let touched = false;

  function describe() {
    const shown = new Set(ids.map((id) => images.label[id])).size;
    const part = ids.length < gallery.size ? `A random ${number(ids.length)} of ${number(gallery.size)}` : `All ${number(gallery.size)}`;
    const shared = shown > looks ? ` The ${number(shown)} classes share ${looks} looks; point at one to see its class alone.` : "";
    $("map-summary").textContent =
      `${part} test images, laid out by ${data.map.method} so that images with like embeddings lie together; only ` +
      `nearness means something. Colour and shape tell classes apart.${shared} Point at an image to see it and ` +
      "choose it to make it the query, or focus the map and use the arrow keys.";
  }

  function draw() {
    const ratio = devicePixelRatio;
    const { clientWidth: width, clientHeight: height } = canvas;
    if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
    if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    const style = getComputedStyle(document.documentElement);
    const margin = 18;
    const [xs, ys] = [0, 1].map((k) => data.map.places.map((place) => place[k]));
    const span = (values) => Math.max(...values) - Math.min(...values) || 1;
    // One scale for both directions: distances are what the map is about.
    const scale = Math.min((width - 2 * margin) / span(xs), (height - 2 * margin) / span(ys));
    places = data.map.places.map(([x, y]) => [width / 2 + (x - 0.5) * scale, height / 2 - (y - 0.5) * scale]);
    const radius = Math.max(3, Math.min(5, width / 180));
    const label = active < 0 ? null : images.label[ids[active]];
    const order = ids.map((_, i) => i).sort((a, b) => (images.label[ids[a]] === label) - (images.label[ids[b]] === label));
    for (const i of order) {
      const of = images.label[ids[i]];
      context.globalAlpha = label === null ? 0.85 : of === label ? 1 : 0.15;
      context.fillStyle = style.getPropertyValue(`--class-${look.get(of) % data.map.colours}`);
      trace(context, places[i], of === label ? radius * 1.35 : radius, Math.floor(look.get(of) / data.map.colours));
      context.fill();
    }
    context.globalAlpha = 1;
    context.strokeStyle = style.getPropertyValue("--ink");
    for (const [i, width_, size] of [[active, 2, radius + 4], [ids.indexOf(query), 1.5, radius + 7]]) {
      if (i < 0) continue;
      context.lineWidth = width_;
      trace(context, places[i], size, 0);
      context.stroke();
    }
  }

  function trace(context, [x, y], r, shape) {
    context.beginPath();
    if (shape === 0) context.arc(x, y, r, 0, 2 * Math.PI);
    const corners = [
      [],
      [[-0.85, -0.85], [0.85, -0.85], [0.85, 0.85], [-0.85, 0.85]],
      [[0, -1.15], [1.1, 0.85], [-1.1, 0.85]],
      [[0, -1.25], [1.25, 0], [0, 1.25], [-1.25, 0]],
    ][shape];
    corners.forEach(([dx, dy], i) => context[i ? "lineTo" : "moveTo"](x + r * dx, y + r * dy));
    context.closePath();
  }

  function select(i) {
    if (i === active) return;
    active = i;
    draw();
    tip.hidden = i < 0;
    if (i < 0) {
      rest();
      return;
    }
    const id = ids[i];
    tip.replaceChildren(thumbnail(id), h("p", {}, className(images.label[id])));
    const [x, y] = places[i];
    const left = x + 16 + tip.offsetWidth > canvas.clientWidth ? x - 16 - tip.offsetWidth : x + 16;
    tip.style.left = `${Math.max(0, left)}px`;
    tip.style.top = `${Math.max(0, Math.min(y - tip.offsetHeight / 2, canvas.clientHeight - tip.offsetHeight))}px`;
    const offer = !isOpen(id) ? `: ${CLOSED}` : touched ? "" : "; click, or press Enter, to make it the query";
    readout.replaceChildren(h("span", {}, `${nameOf(id)}${offer}`));
    if (isOpen(id) && touched) {
      const button = h("button", { type: "button", class: "quiet" }, "Make it the query");
      button.addEventListener("click", () => choose(i));
      readout.append(button);
    }
  }

  function rest() {
    const where = ids.includes(query) ? "The ring marks the query." : "The query is not among these images.";
    readout.replaceChildren(h("span", {}, where));
  }

  function choose(i) {
    if (i < 0 || !isOpen(ids[i])) return;
    ask(ids[i]);
    $("query").focus({ preventScroll: true });
    $("retrieval").querySelector(".gallery").scrollIntoView({ behavior: calm.matches ? "auto" : "smooth", block: "start" });
  }

  function under(event) {
    const box = canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.x - canvas.clientLeft, event.clientY - box.y - canvas.clientTop];
    const distances = places.map(([a, b]) => Math.hypot(a - x, b - y));
    const nearest = distances.indexOf(Math.min(...distances));
    return distances[nearest] < 22 ? nearest : -1;
  }

  function start() {
    describe();
    rest();
    canvas.addEventListener("pointermove", (event) => {
      const i = under(event);
      select(i);
      canvas.style.cursor = i >= 0 && isOpen(ids[i]) ? "pointer" : "";
    });
    canvas.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && document.activeElement !== canvas && select(-1));
    canvas.addEventListener("pointerdown", (event) => { touched = event.pointerType !== "mouse"; });
    canvas.addEventListener("click", (event) => {
      const i = under(event);
      // A finger cannot hover: its first touch shows the image, and the button below makes it the query.
      if (touched) select(i);
      else choose(i);
    });
    canvas.addEventListener("focus", () => {
      if (active < 0 && canvas.matches(":focus-visible")) select(Math.max(0, ids.indexOf(query)));
    });
    canvas.addEventListener("blur", (event) => { if (!readout.contains(event.relatedTarget)) select(-1); });
    canvas.addEventListener("keydown", (event) => {
      touched = false;
      if (event.altKey || event.ctrlKey || event.metaKey) return;
      if (event.key === "Enter" || event.key === " ") choose(active);
      else if (event.key === "Escape") select(-1);
      else if (event.key in DIRECTIONS) {
        const to = active < 0 ? 0 : toward(places, places[active], ...DIRECTIONS[event.key]);
        if (to >= 0) select(to);
      } else return;
      event.preventDefault();
    });
    new ResizeObserver(draw).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  }

  return { start, draw: () => { draw(); if (active < 0) rest(); } };
})();

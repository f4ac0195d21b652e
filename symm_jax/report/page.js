"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { images, sheet, gallery } = data;
  const $ = (id) => document.getElementById(id);
  const number = (x) => x.toLocaleString("en");
  const percent = (x) => `${(100 * x).toFixed(1)} %`;
  const several = (count, one, many) => `${number(count)} ${count === 1 ? one : many}`;
  const calm = matchMedia("(prefers-reduced-motion: reduce)");

  // Elements. Text only ever goes in as text nodes, never as markup.

  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== null && value !== undefined) element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }
  const h = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
  const s = (tag, attributes = {}, ...children) =>
    fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
  const classColour = (i) => `var(--class-${i % data.map.colours})`;

  // Thumbnails: a canvas each, cut from the one sheet; a background would let tiles bleed into each other.

  const picture = new Image();
  picture.src = sheet.uri;
  const decoded = picture.decode();

  function thumbnail(id) {
    const canvas = h("canvas", { class: "thumb", width: sheet.side, height: sheet.side, "aria-hidden": "true" });
    const x = (id % sheet.columns) * sheet.side;
    const y = Math.floor(id / sheet.columns) * sheet.side;
    decoded.then(() => {
      canvas.getContext("2d").drawImage(picture, x, y, sheet.side, sheet.side, 0, 0, sheet.side, sheet.side);
    });
    return canvas;
  }

  const isOpen = (id) => images.neighbours[id] !== null;
  const nameOf = (id) => `image ${images.row[id]}, class ${images.label[id]}`;
  const CLOSED = "its neighbours are not in this page";

  function aheadInWords(id) {
    const ahead = images.ahead[id];
    if (ahead < 0) return "There is no other image of its class, so nothing could be found.";
    if (ahead === 0) return "Answered right: its nearest neighbour is of its class.";
    const come = ahead === 1 ? "image of another class comes" : "images of other classes come";
    return `${number(ahead)} ${come} before the first of its own.`;
  }

  // Moving between items with the arrow keys: one of them at a time is in the tab order.

  /** The index of the nearest of `points` in a direction, -1 if there is none; sideways counts more than ahead. */
  function toward(points, from, dx, dy) {
    let best = -1;
    let least = Infinity;
    points.forEach(([x, y], i) => {
      const ahead = (x - from[0]) * dx + (y - from[1]) * dy;
      const aside = Math.abs((x - from[0]) * dy) + Math.abs((y - from[1]) * dx);
      const cost = ahead + 2 * aside;
      if (ahead > 1e-6 && aside <= 2 * ahead && cost < least) [best, least] = [i, cost];
    });
    return best;
  }
  const DIRECTIONS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  function moveWithArrows(container) {
    container.addEventListener("keydown", (event) => {
      const items = [...container.children];
      const at = items.indexOf(document.activeElement);
      if (at < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
      const centre = (item) => {
        const box = item.getBoundingClientRect();
        return [box.x + box.width / 2, box.y + box.height / 2];
      };
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      let to = { Home: 0, End: items.length - 1 }[event.key] ?? at;
      if (step) to = Math.min(Math.max(at + step, 0), items.length - 1);
      else if (event.key in DIRECTIONS) to = toward(items.map(centre), centre(items[at]), ...DIRECTIONS[event.key]);
      else if (!["Home", "End"].includes(event.key)) return;
      if (to < 0) return;
      event.preventDefault();
      items[to].focus();
    });
    container.addEventListener("focusin", (event) => {
      const item = event.target.closest(`#${container.id} > *`);
      for (const other of container.children) other.tabIndex = other === item ? 0 : -1;
    });
  }

  // Retrieval

  let query = null;

  function drawStarts() {
    const failing = gallery.failed > 0;
    $("starts-title").textContent = failing ? "Hardest failures" : gallery.queries ? "No failures" : "Some images";
    $("starts-hint").textContent = failing
      ? "Ordered by the number below each: how many images of other classes come before the first of its own."
      : gallery.queries
        ? "Every query's nearest neighbour is of its own class. These are some of them."
        : "Each is alone in its class.";
    $("retrieval-summary").textContent = gallery.queries
      ? `Each of the ${number(gallery.queries)} test images that have another of their class is a query against all ` +
        `${number(gallery.size)}. For ${number(gallery.failed)} of them (${percent(gallery.failed / gallery.queries)}) ` +
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
        h("span", {}, h("span", { class: "rank" }, `${rank} · `), `class ${images.label[id]}`),
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
      h("h3", {}, `Class ${images.label[id]}`),
      h("p", {}, `Query: image ${images.row[id]}. ${aheadInWords(id)}`),
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
      tip.replaceChildren(thumbnail(id), h("p", {}, `class ${images.label[id]}`));
      const [x, y] = places[i];
      const left = x + 16 + tip.offsetWidth > canvas.clientWidth ? x - 16 - tip.offsetWidth : x + 16;
      tip.style.left = `${Math.max(0, left)}px`;
      tip.style.top = `${Math.max(0, Math.min(y - tip.offsetHeight / 2, canvas.clientHeight - tip.offsetHeight))}px`;
      const name = nameOf(id);
      const offer = !isOpen(id) ? `: ${CLOSED}` : touched ? "" : "; click, or press Enter, to make it the query";
      readout.replaceChildren(h("span", {}, `${name[0].toUpperCase()}${name.slice(1)}${offer}`));
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

  // Curves

  const DASHES = ["", "7 4", "2 4", "9 4 2 4", "12 4", "4 3"];
  const short = (x) => (x === 0 || (Math.abs(x) >= 1e-3 && Math.abs(x) < 1e5) ? String(Number(x.toPrecision(4))) : x.toExponential(2));
  const shortTick = (x) => (x === 0 || (Math.abs(x) >= 1e-3 && Math.abs(x) < 1e4) ? String(Number(x.toPrecision(3))) : x.toExponential().replace("+", ""));

  /** Round numbers from low to high, about `count` of them. */
  function ticks(low, high, count) {
    const rough = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((m) => m * power).find((x) => x >= rough);
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9) + 0; i * step <= high * (1 + 1e-9) + 1e-12; i += 1) found.push(i * step);
    return found;
  }

  function logTicks(low, high) {
    const found = [];
    for (let k = Math.floor(Math.log10(low)); k <= Math.ceil(Math.log10(high)); k += 1) found.push(10 ** k);
    const inside = found.filter((x) => x >= low && x <= high);
    const every = Math.ceil(inside.length / 5);
    return inside.filter((_, i) => i % every === 0);
  }

  function range(chart) {
    const values = chart.series.flatMap((line) => line.values);
    let [low, high] = [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
    if (chart.log) return [low / 1.3, high * 1.3];
    if (!chart.share && low >= 0 && (low === high || low < 0.6 * high)) low = 0;
    const room = (high - low || Math.abs(high) || 1) * 0.08;
    low = low === 0 ? 0 : low - room;
    high += room;
    return chart.share ? [Math.max(0, low), Math.min(1, high)] : [low, high];
  }

  function drawChart(chart) {
    const at = h("span", { class: "at" });
    const values = chart.series.map(() => h("b"));
    const stroke = (i) => ({ stroke: classColour(i), "stroke-dasharray": DASHES[Math.floor(i / 2) % DASHES.length] });
    const legend = h(
      "ul",
      { class: "legend" },
      ...chart.series.map((line, i) =>
        h("li", {}, s("svg", { viewBox: "0 0 22 10", "aria-hidden": "true" }, s("path", { class: "curve", d: "M1 5H21", ...stroke(i) })), line.name, values[i]),
      ),
    );
    const holder = h("div");
    const steps = [...new Set(chart.series.flatMap((line) => line.steps))].sort((a, b) => a - b);
    const nearest = (step) => steps.reduce((a, b) => (Math.abs(b - step) < Math.abs(a - step) ? b : a));
    const home = nearest(data.chosen);
    const [low, high] = range(chart);
    const height = 220;
    let current = home;
    let cursor;
    let x;

    function read(step, hovering) {
      current = step;
      at.textContent = `step ${number(step)}`;
      chart.series.forEach((line, i) => {
        const k = line.steps.indexOf(step);
        values[i].textContent = k < 0 ? "–" : chart.share ? percent(line.values[k]) : short(line.values[k]);
      });
      cursor.setAttribute("visibility", hovering ? "visible" : "hidden");
      cursor.setAttribute("x1", x(step));
      cursor.setAttribute("x2", x(step));
    }

    function draw() {
      const width = Math.max(holder.clientWidth, 200);
      const box = { left: 52, right: width - 12, top: 10, bottom: height - 24 };
      const first = Math.min(steps[0], data.chosen);
      const last = Math.max(steps.at(-1), data.chosen);
      const begin = first === last ? 0 : first;
      const f = chart.log ? Math.log : (v) => v;
      x = (step) => box.left + ((step - begin) / (last - begin || 1)) * (box.right - box.left);
      const y = (v) => box.bottom - ((f(v) - f(low)) / (f(high) - f(low))) * (box.bottom - box.top);
      const across = chart.log ? logTicks(low, high) : ticks(low, high, 4);
      const along = ticks(begin, last, width / 110).filter(Number.isInteger);
      cursor = s("line", { class: "cursor", y1: box.top, y2: box.bottom });
      const svg = s(
        "svg",
        { viewBox: `0 0 ${width} ${height}`, height, tabindex: 0, role: "img", "aria-label": `${chart.title}: a curve over steps; arrow keys read its values` },
        ...across.flatMap((v) => [
          s("line", { class: "grid", x1: box.left, x2: box.right, y1: y(v), y2: y(v) }),
          s("text", { class: "tick", x: box.left - 8, y: y(v) + 4, "text-anchor": "end" }, chart.share ? `${Number((100 * v).toFixed(1))} %` : shortTick(v)),
        ]),
        ...along.map((step) => s("text", { class: "tick", x: x(step), y: height - 6, "text-anchor": step === last ? "end" : "middle" }, number(step))),
        s("line", { class: "mark", x1: x(data.chosen), x2: x(data.chosen), y1: box.top, y2: box.bottom }),
        ...chart.series.map((line, i) =>
          s("path", { class: "curve", d: line.steps.map((step, k) => `${k ? "L" : "M"}${x(step).toFixed(1)} ${y(line.values[k]).toFixed(1)}`).join(""), ...stroke(i) }),
        ),
        ...chart.series.flatMap((line, i) =>
          line.steps.length > 12 ? [] : line.steps.map((step, k) => s("circle", { cx: x(step), cy: y(line.values[k]), r: 3.5, fill: classColour(i) })),
        ),
        cursor,
      );
      const back = (event) => {
        const step = begin + ((event.clientX - svg.getBoundingClientRect().x - box.left) / (box.right - box.left)) * (last - begin || 1);
        read(nearest(step), true);
      };
      svg.addEventListener("pointermove", back);
      svg.addEventListener("pointerdown", back);
      svg.addEventListener("pointerleave", () => read(home, false));
      svg.addEventListener("blur", () => read(home, false));
      svg.addEventListener("keydown", (event) => {
        const move = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
        if (move === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
        event.preventDefault();
        read(steps[Math.min(Math.max(steps.indexOf(current) + move, 0), steps.length - 1)], true);
        const said = chart.series.map((line, i) => `${line.name} ${values[i].textContent}`);
        $("announcement").textContent = `${at.textContent}: ${said.join(", ")}`;
      });
      holder.replaceChildren(svg);
      read(home, false);
    }

    const figure = h("figure", { class: "chart" }, h("figcaption", {}, h("h3", {}, chart.title + (chart.log ? " (logarithmic)" : "")), at), legend, holder);
    let width = 0;
    new ResizeObserver(() => {
      if (holder.clientWidth !== width) {
        width = holder.clientWidth;
        draw();
      }
    }).observe(holder);
    return figure;
  }

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
    const label = (i) => images.label[pairs[i][0]];
    const lines = [];
    const made = [];
    const real = [];
    places.forEach((points, i) => {
      const spots = points.map(at);
      axis[i].forEach((a, k) => {
        const [[x1, y1], [x2, y2]] = [spots[a], spots[k + 2]];
        lines.push(s("line", { x1, y1, x2, y2, stroke: classColour(i), "stroke-opacity": 0.5, "stroke-width": 1.5 }));
        made.push(dot(spots[k + 2], i, false, `class ${label(i)}, synthetic`));
      });
      pairs[i].forEach((id, k) => real.push(dot(spots[k], i, true, nameOf(id))));
    });
    const title = `Real and synthetic points of ${pairs.length} classes on their first two principal components`;
    const svg = s("svg", { viewBox: `0 0 ${size[0]} ${size[1]}`, role: "img", "aria-label": title }, ...lines, ...made, ...real);
    const key = (i, filled) => s("svg", { viewBox: "-9 -9 18 18", "aria-hidden": "true" }, dot([0, 0], i, filled, ""));
    const classes = pairs.map((pair, i) => h("li", {}, key(i, true), ...pair.map(thumbnail), `class ${label(i)}`));
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

  map.start();
  startRetrieval();
  if (data.charts.length) $("charts").replaceChildren(...data.charts.map(drawChart));
  else $("charts").replaceChildren(h("p", { class: "note" }, "Nothing was logged."));
  if (data.points) drawPoints();
  else for (const id of ["points", "to-points"]) $(id).remove();
})();

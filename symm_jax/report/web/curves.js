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

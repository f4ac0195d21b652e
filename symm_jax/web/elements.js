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

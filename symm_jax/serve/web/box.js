// The box on the query: dragged, or set by keyboard. Its corners are fractions of the picture.

const STEP = 0.02;
const LEAST = 0.02;
const HINT = "Drag a box on the picture to search by a part of it. By keyboard: Enter, then the arrow keys.";
const HOW = "Arrow keys move the box, with Shift they change its size. Enter searches, Escape cancels.";
const inside = (x) => Math.min(Math.max(x, 0), 1);

/** Lets a person set a box while `ready()`. `done` is called with it, or with null for the whole picture. */
function makeBox(ready, done) {
  const stage = $("stage");
  const frame = $("box");
  let current = null; // the box that was searched by
  let draft = null; // the one that is being set
  let from = null; // where a drag began

  function draw() {
    const shown = draft ?? current;
    frame.hidden = !shown;
    frame.classList.toggle("draft", draft !== null);
    stage.classList.toggle("selecting", draft !== null);
    $("part").textContent = draft ? "Search this part" : "Search a part";
    $("whole").hidden = !shown;
    $("whole").textContent = draft ? "Cancel" : "Whole picture";
    $("box-hint").textContent = draft ? HOW : HINT;
    if (!shown) return;
    const [x1, y1, x2, y2] = shown.map((x) => 100 * x);
    Object.assign(frame.style, { left: `${x1}%`, top: `${y1}%`, width: `${x2 - x1}%`, height: `${y2 - y1}%` });
  }
  function start() {
    if (!ready()) return;
    draft = current ?? [0.25, 0.25, 0.75, 0.75];
    draw();
    stage.focus();
    $("announcement").textContent = HOW;
  }
  function cancel() {
    draft = from = null;
    draw();
  }
  function commit() {
    const box = draft;
    cancel();
    done(box);
  }
  function move(dx, dy, resize) {
    const [x1, y1, x2, y2] = draft;
    if (resize) draft = [x1, y1, inside(Math.max(x2 + dx, x1 + LEAST)), inside(Math.max(y2 + dy, y1 + LEAST))];
    else {
      const [mx, my] = [Math.min(Math.max(dx, -x1), 1 - x2), Math.min(Math.max(dy, -y1), 1 - y2)];
      draft = [x1 + mx, y1 + my, x2 + mx, y2 + my];
    }
    draw();
  }
  const at = (event) => {
    const place = stage.getBoundingClientRect();
    return [inside((event.clientX - place.x) / place.width), inside((event.clientY - place.y) / place.height)];
  };

  stage.addEventListener("pointerdown", (event) => {
    // A finger scrolls the page, unless a part is being chosen.
    if (!ready() || event.button !== 0 || (event.pointerType !== "mouse" && draft === null)) return;
    event.preventDefault();
    stage.focus({ preventScroll: true });
    stage.setPointerCapture(event.pointerId);
    from = at(event);
  });
  stage.addEventListener("pointermove", (event) => {
    if (!from) return;
    const to = at(event);
    draft = [0, 1].map((i) => Math.min(from[i], to[i])).concat([0, 1].map((i) => Math.max(from[i], to[i])));
    draw();
  });
  stage.addEventListener("pointerup", (event) => {
    if (!from) return;
    const large = draft && draft[2] - draft[0] >= LEAST && draft[3] - draft[1] >= LEAST;
    const clicked = at(event).every((x, i) => Math.abs(x - from[i]) < LEAST);
    from = null;
    if (large && !clicked) commit();
    else if (event.pointerType === "mouse") cancel();
  });
  stage.addEventListener("pointercancel", cancel);
  stage.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "Enter" || event.key === " ") draft ? commit() : start();
    else if (event.key === "Escape") draft ? cancel() : asked().box && done(null);
    else if (draft && event.key in DIRECTIONS) move(...DIRECTIONS[event.key].map((x) => STEP * x), event.shiftKey);
    else return;
    event.preventDefault();
  });
  $("part").addEventListener("click", () => (draft ? commit() : start()));
  $("whole").addEventListener("click", () => (draft ? cancel() : done(null)));

  return (box) => {
    current = box;
    cancel();
  };
}

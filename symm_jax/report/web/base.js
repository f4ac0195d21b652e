const data = JSON.parse(document.getElementById("data").textContent);
const { images, sheet, gallery } = data;
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
const className = (label) => data.classes[label];
const nameOf = (id) => `${images.name[id]}, ${className(images.label[id])}`;
const CLOSED = "its neighbours are not in this page";

function aheadInWords(id) {
  const ahead = images.ahead[id];
  if (ahead < 0) return "There is no other image of its class, so nothing could be found.";
  if (ahead === 0) return "Answered right: its nearest neighbour is of its class.";
  const come = ahead === 1 ? "image of another class comes" : "images of other classes come";
  return `${number(ahead)} ${come} before the first of its own.`;
}

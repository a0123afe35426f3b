// The pad that a digit is drawn on, with mouse, pen or finger: white strokes on black.
const HINT = "draw a digit here";

function render({ model, el }) {
  const side = model.get("side"), width = model.get("width");
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = side;
  canvas.className = "pad";
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "Pad: draw a digit with the mouse or a finger; Backspace takes a stroke away");
  el.append(canvas);
  const pen = canvas.getContext("2d");
  let stroke = null;

  function paint() {
    const data = model.get("picture"), strokes = stroke ? [...model.get("strokes"), stroke] : model.get("strokes");
    pen.fillStyle = "black";
    pen.fillRect(0, 0, side, side);
    if (data.byteLength) {
      const n = Math.round(Math.sqrt(data.byteLength)), scale = side / n;
      for (let i = 0; i < n * n; i++) {
        const grey = data.getUint8(i);
        pen.fillStyle = `rgb(${grey},${grey},${grey})`;
        pen.fillRect(Math.floor((i % n) * scale), Math.floor(Math.floor(i / n) * scale), Math.ceil(scale), Math.ceil(scale));
      }
    } else if (!strokes.length) {
      pen.fillStyle = "#9aa0a6";
      pen.font = "18px sans-serif";
      pen.textAlign = "center";
      pen.fillText(HINT, side / 2, side / 2);
    }
    pen.strokeStyle = "white";
    Object.assign(pen, { lineWidth: width, lineCap: "round", lineJoin: "round" });
    for (const points of strokes) {
      pen.beginPath();
      pen.moveTo(...points[0]);
      for (const point of points.length > 1 ? points.slice(1) : points) pen.lineTo(...point);
      pen.stroke();
    }
  }
  function place(event) {
    const box = canvas.getBoundingClientRect(), scale = side / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale].map((v) => Math.round(10 * v) / 10);
  }
  function set(name, value) {
    model.set(name, value);
    model.save_changes();
  }
  canvas.addEventListener("pointerdown", (event) => {
    if (!event.isPrimary || event.button) return;
    canvas.setPointerCapture(event.pointerId); // a stroke may leave the pad and come back
    stroke = [place(event)];
    set("drawing", true);
    paint();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!stroke || !event.isPrimary) return;
    stroke.push(place(event));
    paint();
  });
  function end() {
    if (!stroke) return;
    model.set("strokes", [...model.get("strokes"), stroke]);
    stroke = null;
    set("drawing", false);
    paint();
  }
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, end);
  canvas.addEventListener("keydown", (event) => {
    if (event.key !== "Backspace" && !(event.key === "z" && (event.ctrlKey || event.metaKey))) return;
    event.preventDefault();
    event.stopPropagation();
    model.send({ kind: "undo" });
  });
  for (const name of ["strokes", "picture"]) model.on(`change:${name}`, paint);
  paint();
  return () => ["strokes", "picture"].forEach((name) => model.off(`change:${name}`, paint));
}

export default { render };

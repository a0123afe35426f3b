// The page that draws: ten digits, one noise, one slider; and the visitor's own digit as all ten.
import pad from "./pad.js";
import { SIZE } from "./numbers.js";

const at = (id) => document.getElementById(id), FIRST_SEED = 3, RISE = 2, OWN_SCALE = 3; // w that the slider plays up to, once; and of a drawn digit
const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
const begun = performance.now(), loads = {}, digits = [];
let worker = null, way = null, frame = 0, chosen = null, live = false, own = false, source = "";

// ---- pictures ----
function paint(canvas, x) {
  const bytes = new ImageData(28, 28);
  for (let i = 0; i < SIZE; i++) {
    bytes.data.fill(Math.round((Math.min(1, Math.max(-1, x[i])) + 1) * 127.5), 4 * i, 4 * i + 3);
    bytes.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(bytes, 0, 0);
}
for (let k = 0; k < 10; k++) {
  const button = document.createElement("button"), canvas = document.createElement("canvas"), text = document.createElement("small");
  Object.assign(canvas, { width: 28, height: 28 });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `The drawn ${k}`);
  button.className = "digit";
  button.title = "Its way from noise";
  button.append(Object.assign(document.createElement("b"), { textContent: k }), canvas, text);
  button.addEventListener("click", () => choose(k));
  at("digits").append(button);
  digits.push({ button, canvas, text });
}

// ---- what the worker says ----
const says = {
  progress({ what, got, total }) {
    loads[what] = { got, total };
    const mb = (name) => (Object.values(loads).reduce((sum, one) => sum + one[name], 0) / 1e6).toFixed(1);
    if (!live) state(mb("got") < mb("total") ? `A film, until the network is here: ${mb("got")} of ${mb("total")} MB` : "The network starts …");
    else if (own) at("heard").textContent = `${source} Fetching ${what}: ${(got / 1e6).toFixed(1)} of ${(total / 1e6).toFixed(1)} MB`;
  },
  picture({ label, pixels, scale, version, took }) {
    paint(digits[label].canvas, pixels);
    if (!live) begin();
    state(`Live, on your device: ${took.toFixed(0)} ms a digit`);
    Object.assign(digits[label].button.dataset, { scale, version });
  },
  read({ readings }) {
    digits.forEach(({ button, text }, k) => {
      const free = at("scale").value === "0", { label, probability } = readings[k];
      button.classList.toggle("misread", !free && label !== k);
      text.textContent = free ? "" : `${label} (${Math.round(100 * probability)}%)`;
    });
    const right = readings.filter(({ label }, k) => label === k).length;
    at("line").textContent = at("scale").value === "0" ? "No wish is heard: all ten are the same picture." : `${right} of 10 are read as asked.`;
    if (chosen !== null) worker.postMessage({ kind: "way", label: chosen });
  },
  source({ label, probability }) {
    at("heard").textContent = source = `Read as ${label} (${Math.round(100 * probability)}%).`;
  },
  inverting({ share }) {
    at("heard").textContent = share < 1 ? `${source} On its way into noise: ${Math.round(100 * share)}%` : `${source} Above it is as all ten. Move the slider.`;
    if (share === 1) tell(OWN_SCALE);
  },
  way({ states, guesses, times }) {
    way = { states, guesses: [guesses[0], ...guesses], times };
    at("way").hidden = false;
    at("moment").max = states.length - 1;
    calm ? moment(states.length - 1) : run();
  },
  error({ text }) {
    const memory = /memory|alloc/i.test(text) ? "There is not enough memory for the network in this browser: close other tabs. " : "";
    state(memory || `The network could not run here: ${text}`, true);
  },
};
function state(text, wrong = false) {
  at("state").textContent = text;
  at("state").classList.toggle("wrong", wrong);
}
function begin() {
  live = true;
  document.body.dataset.seconds = ((performance.now() - begun) / 1000).toFixed(2);
  at("film").hidden = true;
  at("digits").hidden = false;
  for (const id of ["scale", "again"]) at(id).disabled = false;
  if (!calm) rise();
  else tell(RISE);
}
// The scale rises once by itself; whoever takes the slider has it.
function rise() {
  const start = performance.now() + 600;
  let moved = false;
  at("scale").addEventListener("pointerdown", () => (moved = true), { once: true });
  at("scale").addEventListener("keydown", () => (moved = true), { once: true });
  (function step(now) {
    if (moved) return;
    const scale = Math.min(RISE, Math.max(0, (now - start) / 1500));
    if (now > start) tell(Math.round(20 * scale) / 20);
    if (scale < RISE) requestAnimationFrame(step);
  })(performance.now());
}

// ---- what the visitor does ----
function tell(scale) {
  at("scale").value = scale;
  at("told").textContent = `w = ${scale.toFixed(2).replace(/0$/, "")}`;
  digits.forEach(({ button, text }) => { button.classList.remove("misread"); text.textContent = ""; });
  at("line").textContent = "";
  worker.postMessage({ kind: "scale", scale });
}
function noise(seed) {
  own = false;
  at("seed").textContent = seed;
  at("heard").textContent = "";
  worker.postMessage({ kind: "noise", seed });
}
at("scale").addEventListener("input", () => tell(+at("scale").value));
at("again").addEventListener("click", () => noise(Math.floor(10000 * Math.random())));
function choose(k) {
  chosen = chosen === k ? null : k;
  digits.forEach(({ button }, i) => { button.classList.toggle("chosen", i === chosen); button.setAttribute("aria-pressed", i === chosen); });
  at("way").hidden = true;
  if (chosen !== null) worker.postMessage({ kind: "way", label: chosen });
}
function moment(k) {
  at("moment").value = k;
  paint(at("sees"), way.states[k]);
  paint(at("guesses"), way.guesses[k]);
  at("when").textContent = way.times[k] < 0 ? "the finished picture" : `t = ${way.times[k]}`;
}
function run() {
  cancelAnimationFrame(frame);
  const start = performance.now(), last = way.states.length - 1;
  (function step(now) {
    const k = Math.min(last, Math.max(0, Math.floor((now - start) / 110)));
    moment(k);
    if (k < last) frame = requestAnimationFrame(step);
  })(start);
}
at("play").addEventListener("click", run);
at("moment").addEventListener("input", () => { cancelAnimationFrame(frame); moment(+at("moment").value); });

// ---- the pad: the notebooks' own module, with a model of its own ----
const model = (() => {
  const values = { side: 280, width: 20, strokes: [], picture: new DataView(new ArrayBuffer(0)), drawing: false }, told = {};
  const undo = () => model.set("strokes", values.strokes.slice(0, -1));
  return {
    get: (name) => values[name],
    set(name, value) { values[name] = value; told[`change:${name}`]?.forEach((tell) => tell()); },
    save_changes() {}, send: undo, undo,
    on: (event, tell) => (told[event] ??= []).push(tell), off() {},
  };
})();
pad.render({ model, el: at("pad") });
let waits = 0;
model.on("change:strokes", () => {
  clearTimeout(waits);
  at("heard").textContent = "";
  if (!model.get("strokes").length) return own && noise(+at("seed").textContent); // the row of noise again
  waits = setTimeout(() => {
    own = true;
    worker.postMessage({ kind: "own", pixels: asDigit(at("pad").querySelector("canvas")) });
  }, 400);
});
at("undo").addEventListener("click", model.undo);
at("clear").addEventListener("click", () => model.set("strokes", []));

// A drawing as MNIST's digits are: the longer side 20 pixels, the centre of mass in the middle; [784] in [-1, 1].
function asDigit(canvas) {
  const side = canvas.width, { data } = canvas.getContext("2d").getImageData(0, 0, side, side);
  const ink = (i) => data[4 * i], places = [...Array(side * side).keys()].filter((i) => ink(i) > 64);
  const [xs, ys] = [places.map((i) => i % side), places.map((i) => Math.floor(i / side))];
  const least = (list) => list.reduce((a, b) => Math.min(a, b)), most = (list) => list.reduce((a, b) => Math.max(a, b));
  const [left, top] = [least(xs), least(ys)], [wide, tall] = [most(xs) - left + 1, most(ys) - top + 1], scale = 20 / Math.max(wide, tall);
  const small = Object.assign(document.createElement("canvas"), { width: 28, height: 28 }), pen = small.getContext("2d");
  const middle = (list, from) => list.reduce((sum, v) => sum + v - from, 0) / list.length;
  pen.fillRect(0, 0, 28, 28);
  pen.imageSmoothingQuality = "high";
  pen.drawImage(canvas, left, top, wide, tall, Math.round(14 - scale * middle(xs, left)), Math.round(14 - scale * middle(ys, top)), Math.max(1, Math.round(wide * scale)), Math.max(1, Math.round(tall * scale)));
  const grey = pen.getImageData(0, 0, 28, 28).data, brightest = Math.max(1, ...grey.filter((_, i) => i % 4 === 0));
  return Float32Array.from({ length: SIZE }, (_, i) => (2 * grey[4 * i]) / brightest - 1);
}

// ---- begin ----
// A module with one SIMD instruction: browsers since 2021 (Safari since 2023) take it.
const SIMD = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11]);
if (typeof WebAssembly === "undefined" || !WebAssembly.validate(SIMD))
  state("This browser lacks WebAssembly with SIMD, which the network needs: take a newer one.", true);
else {
  worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  worker.onmessage = ({ data }) => says[data.kind](data);
  worker.onerror = (event) => says.error({ text: event.message ?? "the worker did not start." });
  worker.postMessage({ kind: "scale", scale: 0 });
  noise(FIRST_SEED);
}
export { worker };

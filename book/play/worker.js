// The networks, off the page's own thread. The newest wish is drawn first; what it replaced is dropped.
import * as ort from "./ort/ort.wasm.min.mjs";
import { IMAGE, SIZE, T, guess, inverted, noiseOf, spaced } from "./numbers.js";

const FLOW_MAP = "mnist-flow-map", DENOISER = "mnist-denoiser-v", EVALUATOR = "mnist-evaluator";
const TEN = 10, AT_ONCE = 2, MOMENTS = 12, INVERSION = 25; // pictures a call; moments of a way; steps up
ort.env.wasm.numThreads = 1; // more would need headers that a plain file server does not send
const here = (path) => new URL(path, import.meta.url).href;

const row = { start: null, seed: null, scale: 0, version: 0, drawn: new Int32Array(TEN), pixels: new Float32Array(TEN * SIZE), read: 0 };
const asked = { own: null, way: null };
let working = false, last = -1;

// ---- what is fetched ----
const sizes = fetch(here("sizes.json")).then((answer) => answer.json());
// A file that lies there compressed: not every server would do it.
async function fetched(name, what) {
  const path = `${name}.gz`, answer = await fetch(here(path)), total = (await sizes)[path], parts = [];
  if (!answer.ok) throw new Error(`${path} is not there (${answer.status}).`);
  let got = 0;
  for (const reader = answer.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    postMessage({ kind: "progress", what, got: (got += value.length), total });
  }
  const content = new Blob(parts).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(content).arrayBuffer());
}
const sessions = {};
const network = (name, what) => (sessions[name] ??= (async () => {
  const model = fetched(`models/${name}.onnx`, what);
  ort.env.wasm.wasmBinary ??= await fetched("ort/ort-wasm-simd-threaded.wasm", "the runtime");
  ort.env.wasm.wasmPaths ??= { mjs: here("ort/ort-wasm-simd-threaded.mjs") };
  return ort.InferenceSession.create(await model, { executionProviders: ["wasm"] });
})());

// ---- networks ----
const images = (data) => new ort.Tensor("float32", data, [data.length / SIZE, 1, 28, 28]);
const whole = (numbers) => new ort.Tensor("int64", BigInt64Array.from(numbers, BigInt), [numbers.length]);
const repeated = (x, count) => Float32Array.from({ length: count * SIZE }, (_, i) => x[i % SIZE]);
async function answer(name, inputs, what) {
  const session = await network(name, what);
  return (await session.run(inputs)).answer.data;
}
// Jumps of a start [784] at T - 1 to each s, told a label and the scale: [labels, 784].
const jumped = (start, s, labels, scale) => answer(FLOW_MAP, {
  x_t: images(repeated(start, labels.length)), t: whole(labels.map(() => T - 1)), s: whole(s), y: whole(labels),
  guidance_scale: new ort.Tensor("float32", new Float32Array(labels.length).fill(scale), [labels.length]),
}, "the network");

// ---- jobs, the most urgent first ----
async function drawSome() {
  const { version, start, scale, seed } = row, labels = [];
  for (let k = 1; k <= TEN && labels.length < AT_ONCE; k++)
    if (row.drawn[(last + k) % TEN] < version) labels.push((last + k) % TEN);
  last = labels.at(-1);
  const began = performance.now(), drawn = await jumped(start, labels.map(() => IMAGE), labels, scale);
  const took = (performance.now() - began) / labels.length;
  labels.forEach((label, i) => {
    row.drawn[label] = version;
    row.pixels.set(drawn.subarray(i * SIZE, (i + 1) * SIZE), label * SIZE);
    postMessage({ kind: "picture", label, seed, scale, version, pixels: drawn.slice(i * SIZE, (i + 1) * SIZE), took });
  });
}
async function readAll() {
  const { version, seed, scale } = row, logits = await answer(EVALUATOR, { x_0: images(row.pixels) }, "the evaluator");
  row.read = version;
  if (version === row.version) postMessage({ kind: "read", seed, scale, readings: Array.from({ length: TEN }, (_, k) => reading(logits, k)) });
}
function reading(logits, k) {
  const own = Array.from(logits.subarray(k * TEN, (k + 1) * TEN)), most = Math.max(...own);
  return { label: own.indexOf(most), probability: 1 / own.reduce((sum, value) => sum + Math.exp(value - most), 0) };
}
// A drawn digit goes up into noise by the denoiser, told what it is; that noise is the row's from then on.
async function invert(pixels) {
  const { label, probability } = reading(await answer(EVALUATOR, { x_0: images(pixels) }, "the evaluator"), 0);
  postMessage({ kind: "source", label, probability });
  const times = spaced(INVERSION).reverse();
  let x = pixels, below = IMAGE;
  for (const [k, t] of times.entries()) {
    const eps = await answer(DENOISER, { x_t: images(x), t: whole([t]), y: whole([label]) }, "a second network, for inversion");
    [x, below] = [inverted(x, eps, below, t), t];
    await breath();
    if (asked.own || row.seed !== null) return; // another stroke, or another noise
    if (k + 1 === times.length) restart(x);
    postMessage({ kind: "inverting", share: (k + 1) / times.length });
  }
}
async function wayOf(label) {
  const { start, scale } = row, s = [...spaced(MOMENTS).slice(1), IMAGE];
  const states = await jumped(start, s, s.map(() => label), scale);
  const all = s.map((time, k) => states.slice(k * SIZE, (k + 1) * SIZE));
  postMessage({ kind: "way", label, times: [T - 1, ...s], states: [start, ...all], guesses: all.map((x, k) => guess(start, x, T - 1, s[k])) });
}
function next() {
  if (asked.own) return [invert, [asked.own, (asked.own = null)][0]];
  if (row.start && row.drawn.some((version) => version < row.version)) return [drawSome];
  if (asked.way !== null) return [wayOf, [asked.way, (asked.way = null)][0]];
  return row.start && row.read < row.version ? [readAll] : null;
}

const channel = new MessageChannel();
// Lets messages in, without the 4 ms that a timer takes.
const breath = () => new Promise((done) => { channel.port1.onmessage = done; channel.port2.postMessage(0); });
async function work() {
  if (working) return;
  working = true;
  try {
    for (let job; (job = next()); await breath()) await job[0](job[1]);
  } catch (error) {
    postMessage({ kind: "error", text: String(error?.message ?? error) });
  }
  working = false;
}
function restart(start) {
  row.start = start;
  row.version++;
}
const heard = {
  noise: ({ seed, scale = row.scale }) => { Object.assign(row, { seed, scale }); restart(noiseOf(seed)); },
  scale: ({ scale }) => { row.scale = scale; row.version++; },
  own: ({ pixels }) => { row.seed = null; asked.own = pixels; },
  way: ({ label }) => (asked.way = label),
};
onmessage = ({ data }) => {
  heard[data.kind](data);
  work();
};

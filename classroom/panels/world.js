// The moving world: particles in a plane whose every score is known, so all that moves here is exact.
const TOTAL = 1000, COUNT = 500, TRAILS = 60; // timesteps, dots, drawn trails
const FINE = 60, ROUGH = 20; // steps of a way, and while a slider moves
const WIDE = 2.3, HIGH = 1.75, WAY = 3500; // half the plane that is shown; ms that a way takes
const TRAITS = ["guidance_scale", "target", "steps", "seed"], NAMES = ["7", "3"];
const LIGHT = { data: ["#c4521f", "#762a83"], noise: "#5f6670", estimate: "#2166ac", guidance: "#1b7837", faint: "#d0d5db" };
const DARK = { data: ["#f0886a", "#c79be0"], noise: "#a8b0ba", estimate: "#6ba6e0", guidance: "#63c27c", faint: "#3d444d" };
const mark = (kind, text) => `<b class="w-${kind}">${text}</b>`;
const XT = "x<sub>t</sub>", XS = "x<sub>s</sub>", X0 = mark("data", "x₀"), EPS = mark("noise", "ε"), GUESS = mark("estimate", "x̂₀");
// Of each scene: the pictures' titles, the controls besides time, the equation, and what is to be seen.
const SCENES = {
  noise: [[""], ["arrows"], (a, s) => `${XT} = √ᾱ ${X0} + √(1−ᾱ) ${EPS} = ${a.toFixed(2)} ${X0} + ${s.toFixed(2)} ${EPS}`,
    "Each dot is a data point; together they draw a 7 and a 3. Noise tears them away, and what is left of the data, drawn pale, shrinks to the middle."],
  flow: [[""], ["arrows"], () => `${XS} = √ᾱ<sub>s</sub> ${GUESS} + √(1−ᾱ<sub>s</sub>) ${mark("noise", "ε̂")}`,
    "From noise back to data. Most happens near the end. A dot's colour says where it will end: the sampler is not told."],
  samplers: [["DDIM", "DDPM: fresh noise in every step"], [], () => `${XS} = √ᾱ<sub>s</sub> ${GUESS} + √(1−ᾱ<sub>s</sub>−σ²) ${mark("noise", "ε̂")} + σ ${mark("noise", "z")}`,
    "The same start. DDIM (σ = 0) walks a smooth curve, DDPM a zigzag; both end on the strokes."],
  guide: [["without a wish", "with the wish"], ["scale", "target"],
    () => `ε̂ = ε̂(${XT}) + w ${mark("guidance", `(ε̂(${XT}, y) − ε̂(${XT}))`)}`,
    "w = 1 draws the wish as it is in the data. More drives the dots away from where the other digit is near: there the strokes break off."],
  invert: [[""], ["scale", "target"], () => `up to x<sub>T</sub>, told what it is; then down, told the wish: ε̂(${XT}) + w ${mark("guidance", `(ε̂(${XT}, y) − ε̂(${XT}))`)}`,
    "Real dots walk back into noise and down again under the other wish. Each stays itself as far as it can."],
  steps: [["60 steps", "few steps"], ["steps"], () => `${XS} = √ᾱ<sub>s</sub> ${GUESS} + √(1−ᾱ<sub>s</sub>) ${mark("noise", "ε̂")}`,
    "The same start. Few steps go straight on where the way bends, and miss the strokes."],
  yours: [null, [], () => "", "Every dot is where your code put it."], // its titles and states are recorded
};

// Numbers that a seed decides: uniform (mulberry32) and normal (Box and Muller).
function generator(seed) {
  const uniform = () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let z = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    z = (z + Math.imul(z ^ (z >>> 7), 61 | z)) ^ z;
    return ((z ^ (z >>> 14)) >>> 0) / 4294967296;
  };
  const normal = () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  return { uniform, normal };
}

class World {
  constructor(means, classes, std, abar) {
    Object.assign(this, { means, classes, std, abar, squares: new Float64Array(means.length) });
    this.parts = [0, 1].map((c) => Float64Array.from(means.filter((_, i) => classes[i >> 1] === c)));
  }
  // alpha and sigma at t; t = -1 is the picture.
  at(t) {
    const abar = t < 0 ? 1 : this.abar[t];
    return [Math.sqrt(abar), Math.sqrt(1 - abar)];
  }
  // The exact estimate of x_0 at a place: [untold, told the wish, at scale w of the wish]; target -1 is no wish.
  estimate(x, y, t, target, w) {
    const [a, s] = this.at(t), squares = this.squares, variance = (a * this.std) ** 2 + s ** 2, near = [0, 0];
    const sums = this.parts.map((means, c) => {
      let least = Infinity, sum = 0, mx = 0, my = 0;
      for (let i = 0; i < means.length; i += 2) {
        const u = x - a * means[i], v = y - a * means[i + 1], d = (squares[i] = u * u + v * v);
        if (d < least) least = d;
      }
      for (let i = 0; i < means.length; i += 2) {
        if (squares[i] - least > 60 * variance) continue;
        const weight = Math.exp((least - squares[i]) / (2 * variance));
        sum += weight;
        mx += weight * means[i];
        my += weight * means[i + 1];
      }
      near[c] = least;
      return [sum, mx, my];
    });
    const share = (a * this.std ** 2) / variance; // E[x_0] of a part with mean m: m + share (x - a m)
    const expected = ([n, mx, my]) => [mx / n + share * (x - (a * mx) / n), my / n + share * (y - (a * my) / n)];
    const [of0, of1] = near.map((d) => Math.exp((Math.min(...near) - d) / (2 * variance)));
    const untold = expected(sums[0].map((sum, k) => of0 * sum + of1 * sums[1][k]));
    const told = target < 0 || !sums[target][0] ? untold : expected(sums[target]);
    return [untold, told, [untold[0] + w * (told[0] - untold[0]), untold[1] + w * (told[1] - untold[1])]];
  }
  // Moves every dot from t to s, either way, by the estimate at the noisier end; with fresh noise if asked.
  step(from, t, s, target, w, fresh) {
    const [a, n] = this.at(t), [a2, n2] = this.at(s), asked = Math.max(t, s), [b, m] = this.at(asked), to = from.slice();
    const ratio = fresh && s >= 0 ? ((n2 / n) ** 2) * (1 - (a / a2) ** 2) : 0;
    for (let i = 0; i < from.length; i += 2) {
      const [, , guess] = this.estimate(from[i], from[i + 1], asked, target instanceof Array ? target[i / 2] : target, w);
      for (let k = 0; k < 2; k++) {
        const eps = (from[i + k] - b * guess[k]) / m, x0 = (from[i + k] - n * eps) / a;
        to[i + k] = a2 * x0 + Math.sqrt(Math.max(0, n2 ** 2 - ratio)) * eps + (ratio ? Math.sqrt(ratio) * fresh() : 0);
      }
    }
    return to;
  }
  // Timesteps with trailing spacing, and the picture.
  times(count) {
    return [...Array(count).keys()].map((i) => Math.round((TOTAL * (count - i)) / count) - 1).concat(-1);
  }
  // The states along times, which may rise or fall.
  way(start, times, target, w, fresh) {
    const states = [start];
    for (let k = 1; k < times.length; k++) states.push(this.step(states[k - 1], times[k - 1], times[k], target, w, fresh));
    return states;
  }
  kinds(state) {
    return [...Array(state.length / 2).keys()].map((i) => this.nearest(state[2 * i], state[2 * i + 1]));
  }
  nearest(x, y) {
    let best = 0, least = Infinity;
    this.classes.forEach((c, i) => {
      const d = (x - this.means[2 * i]) ** 2 + (y - this.means[2 * i + 1]) ** 2;
      if (d < least) [best, least] = [c, d];
    });
    return best;
  }
}

// What a scene shows: for each picture its states, their times, and the dots' classes.
function played(world, scene, { seed, scale, target, steps }, plain, fine = FINE) {
  const { uniform, normal } = generator(seed), part = [...Array(COUNT)].map(() => Math.floor(uniform() * world.classes.length));
  const x0 = Float64Array.from({ length: 2 * COUNT }, (_, i) => world.means[2 * part[i >> 1] + (i & 1)] + world.std * normal());
  const eps = Float64Array.from(x0, normal), own = part.map((p) => world.classes[p]), smooth = world.times(fine);
  const ended = (states, times, target = -1, w = 0) => ({ states, times, kinds: world.kinds(states.at(-1)), target, w });
  const down = (times, target = -1, w = 1, fresh = null) => ended(world.way(eps, times, target, w, fresh), times, target, w);
  if (scene === "noise") {
    const times = smooth.slice().reverse();
    return [{ times, kinds: own, eps, x0, states: times.map((t) => { const [a, s] = world.at(t); return x0.map((x, i) => a * x + s * eps[i]); }) }];
  }
  if (scene === "samplers") return [down(smooth), { ...down(smooth, -1, 1, normal), zigzag: true }];
  if (scene === "guide") return [plain ?? down(smooth), down(smooth, target, scale)];
  if (scene === "steps") return [down(smooth), down(world.times(steps))];
  if (scene === "invert") {
    const up = smooth.slice().reverse(), rising = world.way(x0, up, own, 1), falling = world.way(rising.at(-1), smooth, target, scale);
    return [{ states: rising.concat(falling.slice(1)), times: up.concat(smooth.slice(1)), kinds: own, target, w: scale, turn: up.length - 1 }];
  }
  return [down(smooth)];
}

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes))
    name.startsWith("on") ? element.addEventListener(name.slice(2), value) : element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function render({ model, el }) {
  const scene = model.get("scene"), [, extra, equation, note] = SCENES[scene], titles = SCENES[scene][0] ?? model.get("names");
  const floats = (name) => { const view = model.get(name); return Array.from(new Float64Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength))); };
  const given = [floats("means"), model.get("classes"), model.get("std"), floats("abar")];
  let world = new World(...given), shown = [], computed = {}, at = 0, frame = 0, chosen = 3, drawn = 0, pen = null, ours = false;
  const settings = () => ({ seed: model.get("seed"), scale: model.get("guidance_scale"), target: model.get("target"), steps: model.get("steps") });
  const formula = make("div", { class: "world-formula" }), moment = make("span", { class: "strip-moment" });
  const stages = titles.map((title) => make("canvas", { class: "world-stage", role: "img", "aria-label": `${title || scene}: ${note}` }));
  const play = make("button", { onclick: () => (frame ? stop() : run()) }, "Play");
  const time = make("input", { type: "range", min: 0, max: 1000, value: 0, "aria-label": "Time", oninput: () => { stop(); go(time.value / 1000); } });
  const bars = make("div", { class: "strip-player" }, play, time, moment);

  function slider(name, trait, min, max, step) {
    const value = make("output"), input = make("input", { type: "range", min, max, step, value: model.get(trait), "aria-label": name });
    const say = () => (value.textContent = input.value);
    input.addEventListener("input", () => { say(); set(trait, +input.value, ROUGH); });
    input.addEventListener("change", () => compute());
    say();
    return make("label", {}, `${name} `, input, value);
  }
  const controls = {
    scale: () => slider("Guidance scale w", "guidance_scale", 0, 8, 0.1),
    steps: () => slider("Steps", "steps", 1, 25, 1),
    target: () => make("span", { role: "group", "aria-label": "Wish" }, ...NAMES.map((name, k) =>
      make("button", { "aria-pressed": model.get("target") === k, onclick: (event) => {
        event.target.parentNode.querySelectorAll("button").forEach((one) => one.setAttribute("aria-pressed", one === event.target));
        set("target", k);
      } }, `wish: ${name}`))),
    arrows: () => make("label", {}, make("input", { type: "checkbox", ...(model.get("arrows") ? { checked: "" } : {}), onchange: (event) => {
      model.set("arrows", event.target.checked);
      draw();
    } }), " the score as arrows"),
  };
  const more = make("div", { class: "strip-player" }, ...extra.map((name) => controls[name]()),
    ...(scene === "yours" ? [] : [make("button", { onclick: () => { world = new World(...given); pen = null; set("seed", model.get("seed") + 1); } }, "Another noise"),
    make("button", { onclick: () => { pen = { means: [], classes: [] }; stop(); go(scene === "noise" ? 0 : 1); } }, "Draw a cloud of your own")]));
  const root = make("div", { class: "steering-panel world" }, formula, make("div", { class: titles.length > 1 ? "world-stages" : "world-stages one" },
    ...stages.map((stage, k) => make("figure", {}, ...(titles[k] ? [make("figcaption", {}, titles[k])] : []), stage))),
    bars, more, make("div", { class: "strip-note" }, note));
  el.append(root);

  function set(trait, value, fine) {
    ours = true;
    model.set(trait, value);
    model.save_changes();
    ours = false;
    compute(fine);
  }
  function compute(fine = FINE) {
    if (scene === "yours") {
      const times = model.get("times"), flat = floats("ways_of"), size = flat.length / titles.length / times.length;
      shown = titles.map((_, k) => times.map((_, i) => flat.slice((k * times.length + i) * size, (k * times.length + i + 1) * size)))
        .map((states) => ({ states, times, kinds: world.kinds(states.at(-1)), target: -1, w: 0 }));
      return draw();
    }
    const { seed } = settings(); // as long as neither changes, what is drawn without a wish stays
    shown = played(world, scene, settings(), computed.world === world && computed.seed === seed ? shown[0] : null, fine);
    computed = { world, seed };
    chosen = Math.max(0, shown.at(-1).kinds.indexOf(0, chosen));
    draw();
  }
  function go(value) {
    at = Math.min(1, Math.max(0, value));
    time.value = Math.round(1000 * at);
    draw();
  }
  function stop() {
    cancelAnimationFrame(frame);
    frame = 0;
    play.textContent = "Play";
  }
  function run() {
    const began = performance.now() - (at < 1 ? at * WAY : 0);
    play.textContent = "Pause";
    const tick = (now) => {
      go((now - began) / WAY);
      if (at < 1) frame = requestAnimationFrame(tick);
      else stop();
    };
    frame = requestAnimationFrame(tick);
  }
  // How far along its states a way is: slow near the picture, where most happens; a way up and down turns halfway.
  function eased(times) {
    const slow = (u) => 1 - (1 - u) ** 1.9, rises = times[0] < times[1], turns = rises && times.at(-1) < 0;
    if (turns) return at < 0.5 ? (1 - slow(1 - 2 * at)) / 2 : (1 + slow(2 * at - 1)) / 2;
    return rises ? 1 - slow(1 - at) : slow(at);
  }
  // The state between two steps: where a dot is on the straight way from one to the next.
  function between({ states, times }) {
    const place = eased(times) * (states.length - 1), k = Math.min(states.length - 2, Math.floor(place)), part = place - k;
    return { k, t: Math.round(Math.max(0, times[k] + part * (times[k + 1] - times[k]))), x: states[k].map((x, i) => x + part * (states[k + 1][i] - x)) };
  }
  function draw() {
    drawn++;
    const colours = document.body.dataset.jpThemeLight === "false" || (!document.body.dataset.jpThemeLight && matchMedia("(prefers-color-scheme: dark)").matches) ? DARK : LIGHT;
    shown.forEach((one, which) => paint(stages[which], one, colours));
    const { t } = between(shown[0]);
    formula.innerHTML = equation(...world.at(t));
    moment.textContent = `t = ${t}`;
  }
  function paint(canvas, one, colours) {
    const ratio = devicePixelRatio || 1, width = canvas.clientWidth || 400, height = (width * HIGH) / WIDE;
    if (canvas.width !== Math.round(ratio * width)) Object.assign(canvas, { width: Math.round(ratio * width), height: Math.round(ratio * height) });
    canvas.style.height = `${height}px`;
    const ink = canvas.getContext("2d"), { k, t, x } = between(one), X = (v) => ((v + WIDE) * width) / (2 * WIDE), Y = (v) => ((HIGH - v) * height) / (2 * HIGH);
    const line = (colour, wide, ...points) => {
      Object.assign(ink, { strokeStyle: colour, lineWidth: wide });
      ink.beginPath();
      points.forEach(([a, b], i) => (i ? ink.lineTo(X(a), Y(b)) : ink.moveTo(X(a), Y(b))));
      ink.stroke();
    };
    const dot = (colour, a, b, r) => { ink.fillStyle = colour; ink.beginPath(); ink.arc(X(a), Y(b), r, 0, 7); ink.fill(); };
    ink.setTransform(ratio, 0, 0, ratio, 0, 0);
    ink.clearRect(0, 0, width, height);
    const strokes = pen ?? world, trails = one.zigzag ? 10 : TRAILS;
    ink.globalAlpha = pen ? 0.9 : 0.28;
    const [shrunk] = scene === "noise" && !pen ? world.at(t) : [1]; // what is left of the data under noise
    strokes.classes.forEach((c, i) => dot(colours.data[c], shrunk * strokes.means[2 * i], shrunk * strokes.means[2 * i + 1], pen ? 4 : 2.5));
    if (pen) return;
    ink.globalAlpha = 0.35;
    if (scene !== "noise")
      for (let i = 0; i < trails; i++)
        line(colours.data[one.kinds[i]], 1, ...one.states.slice(one.turn && k >= one.turn ? one.turn : 0, k + 1).map((s) => [s[2 * i], s[2 * i + 1]]), [x[2 * i], x[2 * i + 1]]);
    if (model.get("arrows") && extra.includes("arrows")) field(line, colours, t);
    ink.globalAlpha = 0.85;
    for (let i = 0; i < x.length / 2; i++) dot(colours.data[one.kinds[i]], x[2 * i], x[2 * i + 1], 2);
    ink.globalAlpha = 1;
    if (scene !== "yours") explain(one, line, dot, colours, t, x[2 * chosen], x[2 * chosen + 1]);
  }
  function field(line, colours, t) {
    for (let a = -2; a <= 2; a += 0.4)
      for (let b = -1.6; b <= 1.6; b += 0.4) {
        const [alpha, sigma] = world.at(t), [guess] = world.estimate(a, b, t, -1, 1);
        const [u, v] = [(alpha * guess[0] - a) / sigma, (alpha * guess[1] - b) / sigma], size = 0.3 / (0.7 + Math.hypot(u, v));
        const tip = [a + size * u, b + size * v], back = (turn) => [tip[0] - 0.3 * size * (u + turn * v), tip[1] - 0.3 * size * (v - turn * u)];
        line(colours.estimate, 1.5, [a, b], tip);
        line(colours.estimate, 1.5, back(0.7), tip, back(-0.7));
      }
  }
  // The terms of the equation at one dot.
  function explain(one, line, dot, colours, t, x, y) {
    const [a] = world.at(t);
    if (scene === "noise") {
      const here = [a * one.x0[2 * chosen], a * one.x0[2 * chosen + 1]];
      line(colours.data[one.kinds[chosen]], 2.5, [0, 0], here);
      line(colours.noise, 2.5, here, [x, y]);
    } else if (at < 1) {
      const told = one.turn && at < 0.5 ? one.kinds[chosen] : one.target;
      const [untold, , guess] = world.estimate(x, y, t, told, told === one.target ? one.w : 1);
      line(colours.estimate, 2, [x, y], told >= 0 ? untold : guess);
      if (told >= 0) line(colours.guidance, 3, untold, guess);
      dot(colours.estimate, ...guess, 4);
    }
    dot(colours.noise, x, y, 5);
    dot(colours.data[one.kinds[chosen]], x, y, 3.5);
  }
  function place(event) {
    const box = event.target.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * 2 * WIDE - WIDE, HIGH - ((event.clientY - box.top) / box.height) * 2 * HIGH];
  }
  function stroke(event) {
    const [x, y] = place(event), { means, classes } = pen;
    if (classes.length < 150 && (!means.length || Math.hypot(x - means.at(-2), y - means.at(-1)) > 0.04)) means.push(x, y), classes.push(x < 0 ? 0 : 1);
    draw();
  }
  for (const [k, stage] of stages.entries()) {
    stage.addEventListener("pointerdown", (event) => {
      if (pen) return stage.setPointerCapture(event.pointerId), stroke(event);
      const [a, b] = place(event), { x } = between(shown[k]), far = (i) => (x[2 * i] - a) ** 2 + (x[2 * i + 1] - b) ** 2;
      chosen = [...Array(x.length / 2).keys()].reduce((best, i) => (far(i) < far(best) ? i : best));
      draw();
    });
    stage.addEventListener("pointermove", (event) => pen && event.buttons && stroke(event));
    stage.addEventListener("pointerup", () => {
      if (!pen?.classes.length) return;
      world = new World(pen.means, pen.classes, given[2], given[3]);
      pen = null;
      compute();
      go(0);
      run();
    });
  }
  const told = () => ours || compute(); // from the kernel
  const resized = new ResizeObserver(() => draw()), seen = new IntersectionObserver(([entry]) => {
    if (!entry.isIntersecting) return;
    seen.disconnect();
    if (!matchMedia("(prefers-reduced-motion: reduce)").matches) run();
    else go(scene === "noise" ? 0.4 : 1);
  });
  compute();
  stages.forEach((stage) => resized.observe(stage));
  seen.observe(root);
  root.world = { state: (which, k) => Array.from(shown[which].states[k]), times: (which) => shown[which].times, get drawn() { return drawn; } };
  for (const trait of TRAITS) model.on(`change:${trait}`, told);
  return () => { stop(); resized.disconnect(); seen.disconnect(); TRAITS.forEach((trait) => model.off(`change:${trait}`, told)); };
}

export default { render };

// The pictures of a panel: rows that play once from noise to picture, a scrubber, and the line below them.
const REST = 400, SHORT = 100; // ms: a control has rested; and has done so before its way came
const WAY = 1000; // ms from noise to picture
const GAP = 6, ZOOMED = 168; // px

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function paint(canvas, bytes, offset, channels, { height, width }) {
  const pixels = new Uint8ClampedArray(4 * height * width).fill(255);
  for (let i = 0; i < height * width; i++)
    for (let k = 0; k < 3; k++) pixels[4 * i + k] = bytes[offset + channels * i + (channels === 3 ? k : 0)];
  canvas.getContext("2d").putImageData(new ImageData(pixels, width, height), 0, 0);
}

// A picture in hard pixels where each gets the same number of the screen's, else smoothed.
function picture(row, side) {
  const canvas = make("canvas", { width: row.width, height: row.height, role: "img" });
  const scale = side / row.width;
  canvas.style.cssText = `width:${side}px;height:${Math.round(side * row.height / row.width)}px;` +
    `image-rendering:${scale % 1 && scale < 4 ? "auto" : "pixelated"}`;
  return canvas;
}

// ipywidgets' sliders and readouts have no names of their own for those who cannot see their labels.
function nameControls(panel) {
  for (const box of panel.querySelectorAll(".widget-inline-hbox")) {
    const name = box.querySelector(".widget-label")?.textContent;
    const handles = [...box.querySelectorAll(".noUi-handle")];
    handles.forEach((handle, k) => {
      const end = handles.length > 1 ? [", from", ", to"][k] : "";
      if (handle.getAttribute("aria-label") !== name + end) handle.setAttribute("aria-label", name + end);
    });
    for (const readout of box.querySelectorAll(".widget-readout:not([role])")) {
      readout.setAttribute("role", "textbox");
      readout.setAttribute("aria-label", `${name}, value`);
    }
  }
  for (const bar of panel.querySelectorAll(".widget-upload:not([aria-label])"))
    bar.setAttribute("aria-label", bar.textContent);
}

function render({ model, el }) {
  const id = Math.random().toString(36).slice(2);
  let film = null, bytes = null, cells = [], details = [], timer = 0, frame = 0;
  const bar = make("div", { class: "strip-bar" }), stage = make("div", { class: "strip-stage", role: "group" });
  const zoom = make("div", { class: "strip-zoom" });
  const play = make("button", { class: "strip-play", onclick: () => (frame ? stop() : run()) });
  const scrubber = make("input", { type: "range", min: 0, step: 1, "aria-label": "Replay",
    oninput: () => { stop(); go(+scrubber.value); } });
  const moment = make("span", { class: "strip-moment" });
  const views = make("span", { class: "strip-views", role: "radiogroup", "aria-label": "Replay shows" });
  const save = make("button", { onclick: () => model.send({ kind: "save" }) }, "Save GIF");
  const player = make("div", { class: "strip-player" }, play, scrubber, moment, save);
  const line = make("div", { class: "strip-line", role: "status" });
  const saved = make("div", { class: "strip-saved" });
  el.classList.add("strip");
  el.append(bar, views, stage, zoom, player, line, saved);

  const last = () => Math.max(0, film.moments.length - 1);
  const place = () => Math.min(model.get("moment"), last());

  // ---- what is shown at a moment ----
  function draw(canvas, row, k, name) {
    const { start, channels, frames } = row.views[name] ?? Object.values(row.views)[0];
    const size = row.height * row.width * channels, at = frames > 1 ? place() : 0;
    paint(canvas, bytes, start + (at * row.count + k) * size, channels, row);
  }
  function show() {
    const at = place(), ended = at === last(), view = model.get("view");
    for (const { row, k, canvas, text } of cells) {
      if (!row.views) continue;
      draw(canvas, row, k, view);
      const waits = row.frames > 1 && !ended, label = row.texts[k] ?? "";
      canvas.setAttribute("aria-label", waits ? `${row.alts[k]}, on its way, ${film.moments[at]}` : row.alts[k]);
      canvas.parentElement.classList.toggle("misread", !waits && !!row.marks[k]);
      if (text) {
        text.textContent = label; // of the finished picture: while that is on its way, in grey
        text.classList.toggle("waits", waits);
      }
    }
    for (const { row, k, view, canvas } of details) draw(canvas, row, k, view);
    scrubber.value = ended ? scrubber.max : at;
    stage.setAttribute("aria-label", film.title);
    scrubber.setAttribute("aria-valuetext", film.moments[at] ?? "");
    moment.textContent = film.moments[at] ?? "";
    play.textContent = frame ? "❚❚" : "▶";
    play.setAttribute("aria-label", frame ? "Pause" : "Play the way from noise to picture");
  }
  function go(at, saves = true) {
    model.set("moment", at === last() ? 1e6 : at); // at the end it stays at the end of the next film, too
    if (saves) model.save_changes();
    show();
  }

  // ---- playing ----
  function stop(cutShort = false) {
    if (cutShort && frame) model.set("moment", 1e6); // nobody chose where it stands
    clearTimeout(timer);
    cancelAnimationFrame(frame);
    frame = 0;
  }
  function run() {
    stop();
    const began = performance.now(), count = last();
    const step = (now) => {
      const at = Math.min(count, Math.floor((now - began) / Math.max(WAY / count, 40)));
      frame = at < count ? requestAnimationFrame(step) : 0;
      if (at !== place() || !frame) go(at, !frame);
    };
    frame = requestAnimationFrame(step);
    go(0, false);
  }

  // ---- building ----
  function fit(row) {
    const room = (stage.clientWidth || 560) - 2;
    let columns = row.count;
    const side = () => Math.min(row.side, Math.floor((room + GAP) / columns) - GAP);
    while (columns > 1 && side() < Math.min(row.side, row.least)) columns = Math.ceil(columns / 2);
    const width = side();
    // Hard pixels of one size look best: whole multiples, where little is lost.
    return [columns, width - width % row.width > 0.8 * width ? width - width % row.width : width];
  }
  function build() {
    cells = [];
    stage.replaceChildren(...film.rows.map((row, r) => {
      const heading = row.name ? [make("div", { class: "strip-name" }, row.name)] : [];
      if (row.html !== undefined) {
        const chart = make("div", { class: "strip-chart" });
        chart.innerHTML = row.html;
        return make("div", { class: "strip-row" }, ...heading, chart);
      }
      const [columns, side] = fit(row), grid = make("div", { class: "strip-cells" });
      grid.style.gridTemplateColumns = `repeat(${columns}, ${side}px)`;
      for (let k = 0; k < row.count; k++) {
        const head = row.heads.length ? [make("div", { class: "strip-head" }, row.heads[k])] : [];
        const canvas = picture(row, side), frame = make("div", { class: "strip-frame" }, canvas);
        const text = row.lines ? make("div", { class: "strip-text" }) : null;
        if (text) text.style.minHeight = `${1.35 * row.lines}em`;
        frame.classList.toggle("empty", !row.views);
        frame.classList.toggle("small", side < 44);
        if (row.zooms) choosable(frame, r, k);
        cells.push({ row, r, k, canvas, text, frame });
        grid.append(make("div", { class: "strip-cell" }, ...head, frame, ...(text ? [text] : [])));
      }
      return make("div", { class: "strip-row" }, ...heading, grid);
    }));
    const moves = film.moments.length > 1;
    player.hidden = !moves && !film.gif && !film.follows;
    for (const part of [play, scrubber, moment, views]) part.hidden = !moves && !film.follows;
    for (const part of [play, scrubber, save]) part.disabled = film.follows; // until the way is there
    save.hidden = !film.gif;
    views.hidden ||= film.views.length < 2;
    views.replaceChildren(...film.views.map((name) => make("label", {},
      make("input", { type: "radio", name: id, value: name, ...(name === model.get("view") ? { checked: "" } : {}),
        onchange: () => { model.set("view", name); model.save_changes(); show(); } }), name)));
    scrubber.max = last() || 1;
    enlarge();
  }

  // ---- the chosen cell, enlarged ----
  function choosable(frame, r, k) {
    frame.classList.add("choosable");
    frame.setAttribute("role", "button");
    frame.setAttribute("aria-label", `Enlarge ${film.rows[r].alts[k]}`);
    frame.addEventListener("click", () => choose(r, k));
    frame.addEventListener("keydown", (event) => {
      const [dr, dk] = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key] ?? [];
      const next = cells.find((cell) => cell.r === r + dr && cell.k === k + dk && cell.row.zooms);
      if (dr === undefined) return;
      event.preventDefault();
      if (next) choose(next.r, next.k), next.frame.focus();
    });
  }
  function choose(r, k) {
    model.set("chosen", [r, k]);
    model.save_changes();
    enlarge();
    show();
  }
  function enlarge() {
    const zoomed = cells.filter((cell) => cell.row.zooms), [r, k] = model.get("chosen");
    const chosen = zoomed.find((cell) => cell.r === r && cell.k === k) ?? zoomed[0];
    for (const cell of zoomed) {
      cell.frame.classList.toggle("chosen", cell === chosen);
      cell.frame.setAttribute("aria-pressed", cell === chosen);
      cell.frame.tabIndex = cell === chosen ? 0 : -1; // one stop for the Tab key, the arrows do the rest
    }
    details = [];
    zoom.replaceChildren(...(chosen?.row.views ? Object.keys(chosen.row.views).map((view) => {
      const canvas = picture(chosen.row, ZOOMED);
      canvas.setAttribute("aria-label", `${chosen.row.alts[chosen.k]}, ${view}, enlarged`);
      details.push({ row: chosen.row, k: chosen.k, view, canvas });
      return make("div", { class: "strip-cell" }, make("div", { class: "strip-head" }, view), canvas);
    }) : []), ...(chosen ? [make("p", {}, chosen.row.alts[chosen.k])] : []));
  }

  // ---- what comes from the kernel ----
  function take() {
    stop(true);
    const before = film?.rows && last() ? place() / last() : 1; // where it stands is kept
    const moving = film?.follows, rest = moving ? SHORT : REST;
    film = model.get("film");
    if (!film.rows) return;
    if (before < 1) model.set("moment", Math.round(before * last()));
    const data = model.get("pixels");
    bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    const focused = document.activeElement?.classList.contains("chosen") && el.contains(document.activeElement);
    if (moving && film.follows) for (const cell of cells) cell.row = film.rows[cell.r]; // of one shape
    else build();
    show();
    if (focused) cells.find((cell) => cell.frame.classList.contains("chosen"))?.frame.focus();
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (film.moments.length > 1 && place() === last() && !still) timer = setTimeout(run, rest);
  }
  function tell() {
    const busy = model.get("busy"), said = model.get("said");
    const wrong = !busy && model.get("wrong");
    el.classList.toggle("busy", busy !== "");
    bar.style.width = `${100 * model.get("progress")}%`;
    if (busy) stop(true);
    line.setAttribute("role", wrong ? "alert" : "status");
    line.classList.toggle("wrong", wrong);
    line.textContent = busy || said;
  }
  function tellSaved() {
    const { name, data } = model.get("saved");
    if (!name) return;
    const source = `data:image/gif;base64,${data}`;
    saved.replaceChildren(make("img", { src: source, alt: `${name}: the way from noise to picture` }),
      make("p", {}, `Saved as my_work/${name}. `, make("a", { href: source, download: name }, "Download")));
  }

  let names = null, width = 0;
  const sizes = new ResizeObserver(() => {
    if (!film?.rows || !stage.clientWidth || stage.clientWidth === width) return;
    width = stage.clientWidth;
    build();
    show();
  });
  requestAnimationFrame(() => {
    const panel = el.closest(".steering-panel");
    if (!panel) return;
    names = new MutationObserver(() => nameControls(panel));
    names.observe(panel, { childList: true, subtree: true });
    nameControls(panel);
    // A server that gathers small messages (Nagle) holds answers back for 40 ms, until it hears from the page.
    panel.addEventListener("pointermove", (event) => film?.follows && event.buttons && model.send({ kind: "moved" }));
  });
  const watched = { "change:film": take, "change:busy": tell, "change:said": tell, "change:wrong": tell,
    "change:progress": tell, "change:saved": tellSaved, "change:moment": () => film?.rows && show(),
    "change:chosen": () => film?.rows && (enlarge(), show()), "change:view": () => film?.rows && (build(), show()) };
  for (const [event, handler] of Object.entries(watched)) model.on(event, handler);
  take();
  tell();
  tellSaved();
  sizes.observe(el);
  return () => {
    stop();
    sizes.disconnect();
    names?.disconnect();
    for (const [event, handler] of Object.entries(watched)) model.off(event, handler);
  };
}

export default { render };

// The book's live figures: the moving world of the notebooks (world.js), with a model that no kernel stands behind.

const figures = document.querySelectorAll(".live-world");

// What world.js asks of an anywidget's model.
function modelOf(values) {
  const heard = {};
  return {
    get: (name) => values[name],
    set: (name, value) => { values[name] = value; },
    save_changes: () => {},
    on: (event, callback) => (heard[event] ??= new Set()).add(callback),
    off: (event, callback) => heard[event]?.delete(callback),
    tell: (event) => heard[event]?.forEach((callback) => callback()),
  };
}

// The theme's light or dark page, in the words of JupyterLab, which world.js and strip.css know.
function followTheme(models) {
  const tell = () => {
    document.body.dataset.jpThemeLight = document.documentElement.dataset.theme !== "dark";
    models.forEach((model) => model.tell("change:seed"));
  };
  new MutationObserver(tell).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  tell();
}

async function start() {
  const here = (name) => new URL(name, import.meta.url);
  const [{ default: world }, numbers] = await Promise.all([import(here("world.js")), fetch(here("world.json")).then((answer) => answer.json())]);
  const known = { ...numbers, means: new Float64Array(numbers.means), abar: new Float64Array(numbers.abar) };
  const models = [...figures].map((el) => {
    const model = modelOf({ ...known, ...JSON.parse(el.dataset.settings) });
    el.replaceChildren();
    world.render({ model, el });
    return model;
  });
  followTheme(models);
}

if (figures.length) start();

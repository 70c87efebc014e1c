"use strict";
// The attention explorer: what a query patch of an image attends to, in one or two models side by side.
// Its data is the JSON beside it (explorer.rs says how it is packed); it asks for nothing else.
(() => {
  const MEAN = -1; // in place of a head: the mean of all
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const digits = (value) => (value >= 0.001 || value === 0 ? value.toPrecision(3) : value.toExponential(1));

  /** An element with a text. */
  function element(name, text, className) {
    const made = document.createElement(name);
    made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  /** Gives a select these options, and says which is chosen. */
  function fill(select, texts, chosen) {
    if (select.options.length !== texts.length || texts.some((t, i) => select.options[i].text !== t)) {
      select.replaceChildren(...texts.map((text) => element("option", text)));
    }
    select.selectedIndex = chosen;
  }

  /** Special tokens of a layer, by name. */
  function specialTokens(layer) {
    const registers = Array.from({ length: layer.special.registers }, (_, i) => `register ${i + 1}`);
    return layer.special.cls ? ["CLS", ...registers] : registers;
  }

  /** Tokens that see each other in a layer. */
  const tokens = (layer) => (layer.windows ? layer.windows[0].length : specialTokens(layer).length + layer.rows * layer.columns);

  /** Largest values and bytes of an image's rows; unpacked when first asked for. */
  function unpacked(layer, image) {
    layer.unpacked ??= [];
    return (layer.unpacked[image] ??= (() => {
      const raw = bytes(layer.maps[image]);
      const rows = raw.length / (4 + tokens(layer));
      const view = new DataView(raw.buffer);
      const largest = Float32Array.from({ length: rows }, (_, i) => view.getFloat32(4 * i, true));
      return { largest, levels: raw.subarray(4 * rows) };
    })());
  }

  /** What a query attends to: special tokens, and every patch of the map (NaN outside the query's window). */
  function attention(layer, image, head, query) {
    const { largest, levels } = unpacked(layer, image);
    const n = tokens(layer);
    const inWindow = layer.windows ? layer.windows.findIndex((w) => w.includes(query.patch)) : 0;
    const before = specialTokens(layer).length;
    const members = layer.windows ? layer.windows[inWindow] : Array.from({ length: n - before }, (_, i) => i);
    const row = query.special ?? before + members.indexOf(query.patch);
    const heads = head === MEAN ? Array.from({ length: layer.heads }, (_, i) => i) : [head];
    const sums = new Float64Array(n);
    for (const h of heads) {
      const at = (inWindow * layer.heads + h) * n + row;
      for (let k = 0; k < n; k++) sums[k] += (largest[at] * (levels[at * n + k] / 255) ** 2) / heads.length;
    }
    const patches = new Float64Array(layer.rows * layer.columns).fill(NaN);
    members.forEach((patch, k) => (patches[patch] = sums[before + k]));
    const most = sums.subarray(before).reduce((a, b) => Math.max(a, b), 0);
    return { special: Array.from(sums.subarray(0, before)), patches, most };
  }

  /** Mean distance in pixels from a patch to where it attends, among patches. */
  function distance(layer, image, patches, query) {
    const place = (i) => [(i % layer.columns) * (image.width / layer.columns), Math.floor(i / layer.columns) * (image.height / layer.rows)];
    const [x, y] = place(query);
    let [sum, weight] = [0, 0];
    patches.forEach((a, i) => {
      if (Number.isNaN(a)) return;
      const [u, v] = place(i);
      sum += a * Math.hypot(u - x, v - y);
      weight += a;
    });
    return weight > 0 ? sum / weight : NaN;
  }

  function explore(root) {
    const data = JSON.parse(root.querySelector("script").textContent);
    const colours = bytes(data.colours);
    const controls = root.querySelector("form").elements;
    // The query is a place in the image (0 to 1), so that models of other grids have one too, or a special token.
    const deepest = Math.max(...data.models.map((m) => m.layers.length)) - 1;
    const state = { image: 0, layer: deepest, head: MEAN, special: null, x: 0.5, y: 0.5, hover: null };
    const colour = (share) => {
      const i = 3 * Math.round(255 * clamp(share, 0, 1));
      return [colours[i], colours[i + 1], colours[i + 2]];
    };
    const panels = data.models.slice(0, 2).map((_, i) => panel(i));

    const layerOf = (p) => data.models[p.model].layers[Math.min(state.layer, data.models[p.model].layers.length - 1)];
    const headOf = (layer) => Math.min(state.head, layer.heads - 1);
    const patchAt = (layer, { x, y }) => {
      const [row, column] = [clamp(Math.floor(y * layer.rows), 0, layer.rows - 1), clamp(Math.floor(x * layer.columns), 0, layer.columns - 1)];
      return { row, column, patch: row * layer.columns + column };
    };
    const queryOf = (layer) => {
      const special = state.special !== null && state.special < specialTokens(layer).length ? state.special : null;
      return { ...patchAt(layer, state), special };
    };

    function panel(model) {
      const made = root.querySelector("template").content.firstElementChild.cloneNode(true);
      root.querySelector(".panels").append(made);
      const find = (selector) => made.querySelector(selector);
      const p = { model, root: made, view: find(".view"), photo: find(".photo"), overlay: find(".overlay"), bar: find(".bar"), find };
      const bar = p.bar.getContext("2d");
      for (let i = 0; i < 256; i++) {
        bar.fillStyle = `rgb(${colour(i / 255)})`;
        bar.fillRect(i, 0, 1, 1);
      }
      find("select").addEventListener("change", (e) => {
        p.model = e.target.selectedIndex;
        show();
      });
      const place = (e) => {
        const box = p.overlay.getBoundingClientRect();
        return { x: (e.clientX - box.left) / box.width, y: (e.clientY - box.top) / box.height };
      };
      p.view.addEventListener("click", (e) => {
        Object.assign(state, place(e), { special: null });
        show();
      });
      p.view.addEventListener("pointermove", (e) => {
        state.hover = place(e);
        panels.forEach(value);
      });
      p.view.addEventListener("pointerleave", () => {
        state.hover = null;
        panels.forEach(value);
      });
      p.view.addEventListener("keydown", (e) => {
        const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[e.key];
        if (!step || e.altKey || e.ctrlKey || e.metaKey) return;
        e.preventDefault();
        const layer = layerOf(p);
        const { row, column } = patchAt(layer, state);
        state.y = (clamp(row + step[0], 0, layer.rows - 1) + 0.5) / layer.rows;
        state.x = (clamp(column + step[1], 0, layer.columns - 1) + 0.5) / layer.columns;
        Object.assign(state, { special: null, hover: null });
        show();
      });
      return p;
    }

    /** The photograph, at a whole multiple of its size. */
    function photograph(p) {
      const image = data.images[state.image];
      if (p.shown === state.image) return;
      p.shown = state.image;
      const pixels = bytes(image.pixels);
      const small = new ImageData(image.width, image.height);
      for (let i = 0; i < image.width * image.height; i++) {
        for (let c = 0; c < 3; c++) small.data[4 * i + c] = pixels[image.channels * i + (image.channels === 3 ? c : 0)];
        small.data[4 * i + 3] = 255;
      }
      const scale = Math.max(1, Math.round(672 / Math.max(image.width, image.height)));
      for (const canvas of [p.photo, p.overlay]) [canvas.width, canvas.height] = [image.width * scale, image.height * scale];
      const source = element("canvas", "");
      [source.width, source.height] = [image.width, image.height];
      source.getContext("2d").putImageData(small, 0, 0);
      const context = p.photo.getContext("2d");
      context.imageSmoothingEnabled = Math.max(image.width, image.height) > 64;
      context.drawImage(source, 0, 0, p.photo.width, p.photo.height);
    }

    /** The map's colours and the query's outline. */
    function overlay(p, layer, query, most) {
      const [context, { width, height }] = [p.overlay.getContext("2d"), p.overlay];
      const box = (row, column) => {
        const [left, right] = [column, column + 1].map((c) => Math.round((c * width) / layer.columns));
        const [top, bottom] = [row, row + 1].map((r) => Math.round((r * height) / layer.rows));
        return [left, top, right - left, bottom - top];
      };
      const opacity = controls.opacity.value / 100;
      p.photo.style.filter = opacity > 0 ? "grayscale(1)" : "none";
      context.clearRect(0, 0, width, height);
      context.globalAlpha = opacity;
      p.attention.patches.forEach((a, i) => {
        if (Number.isNaN(a)) return;
        context.fillStyle = `rgb(${colour(most > 0 ? a / most : 0)})`;
        context.fillRect(...box(Math.floor(i / layer.columns), i % layer.columns));
      });
      context.globalAlpha = 1;
      if (query.special !== null) return;
      const [left, top, wide, high] = box(query.row, query.column);
      for (const [inset, line, ink] of [[2, 6, "#000"], [2, 2.5, "#fff"]]) {
        [context.lineWidth, context.strokeStyle] = [line, ink];
        context.strokeRect(left + inset, top + inset, wide - 2 * inset, high - 2 * inset);
      }
    }

    /** What is read where the pointer is, or at the query. */
    function value(p) {
      const layer = layerOf(p);
      const query = queryOf(layer);
      const to = p.find(".value");
      if (!state.hover && query.special !== null) {
        to.textContent = `Query: ${specialTokens(layer)[query.special]}.`;
        return;
      }
      const { row, column, patch } = patchAt(layer, state.hover ?? state);
      const a = p.attention.patches[patch];
      const where = `Row ${row + 1}, column ${column + 1}`;
      const even = (a * tokens(layer)).toPrecision(2);
      to.textContent = Number.isNaN(a) ? `${where}: outside the query’s window.` : `${where}: ${digits(a)}, ${Number(even)} times an even share.`;
    }

    /** Numbers of the whole row. */
    function numbers(p, layer, query) {
      const names = specialTokens(layer);
      const total = (values) => values.reduce((a, b) => a + b, 0);
      const { special, patches } = p.attention;
      const far = query.special === null ? distance(layer, data.images[state.image], patches, query.patch) : NaN;
      const rows = [["Attention distance of this query", Number.isNaN(far) ? "–" : `${far.toFixed(1)} px`]];
      if (names.length > 0) rows.push(["Attention to patches", digits(total(patches))]);
      if (layer.special.cls) rows.push(["to CLS", digits(special[0])]);
      if (layer.special.registers > 0) rows.push(["to registers", digits(total(special.slice(layer.special.cls ? 1 : 0)))]);
      p.find(".numbers").replaceChildren(
        ...rows.map(([name, text]) => {
          const pair = element("div", "");
          pair.append(element("dt", name), element("dd", text));
          return pair;
        }),
      );
    }

    /** One small map a head, on scales of their own: a click chooses it. */
    function heads(p, layer, query) {
      const strip = p.find(".heads");
      if (strip.childElementCount !== layer.heads) {
        strip.replaceChildren(
          ...Array.from({ length: layer.heads }, (_, head) => {
            const button = element("button", "");
            button.type = "button";
            button.append(element("canvas", ""), element("span", `${head + 1}`));
            button.setAttribute("aria-label", `head ${head + 1}`);
            button.addEventListener("click", () => {
              state.head = state.head === head ? MEAN : head;
              show();
            });
            return button;
          }),
        );
      }
      [...strip.children].forEach((button, head) => {
        button.setAttribute("aria-pressed", `${head === headOf(layer)}`);
        const canvas = button.firstElementChild;
        [canvas.width, canvas.height] = [layer.columns, layer.rows];
        const { patches, most } = attention(layer, state.image, head, query);
        const small = new ImageData(layer.columns, layer.rows);
        patches.forEach((a, i) => {
          if (!Number.isNaN(a)) small.data.set([...colour(most > 0 ? a / most : 0), 255], 4 * i);
        });
        canvas.getContext("2d").putImageData(small, 0, 0);
      });
    }

    /** Draws everything. */
    function show() {
      const layers = panels.map(layerOf);
      const widest = data.models.reduce((a, b) => (b.layers.length > a.layers.length ? b : a));
      const special = layers.map(specialTokens).reduce((a, b) => (b.length > a.length ? b : a));
      const most = Math.max(...layers.map((l) => l.heads));
      state.head = Math.min(state.head, most - 1);
      if (state.special !== null && state.special >= special.length) state.special = null;
      fill(controls.image, data.images.map((i) => i.name), state.image);
      fill(controls.layer, widest.layers.map((l) => l.name), state.layer);
      fill(controls.head, ["mean of heads", ...Array.from({ length: most }, (_, i) => `${i + 1}`)], state.head + 1);
      fill(controls.query, ["patch", ...special], state.special === null ? 0 : state.special + 1);
      const queries = layers.map(queryOf);
      panels.forEach((p, i) => (p.attention = attention(layers[i], state.image, headOf(layers[i]), queries[i])));
      const common = Math.max(...panels.map((p) => p.attention.most));
      panels.forEach((p, i) => {
        const [layer, query] = [layers[i], queries[i]];
        const ends = controls.common.checked ? common : p.attention.most;
        const head = headOf(layer) === MEAN ? "mean of heads" : `head ${headOf(layer) + 1}`;
        const which = `Layer ${layer.name}, ${head}; ${layer.rows} × ${layer.columns} patches${layer.windows ? ", windows" : ""}`;
        fill(p.find("select"), data.models.map((m) => m.label), p.model);
        p.find(".which").textContent = which;
        p.root.setAttribute("aria-label", data.models[p.model].label);
        const place = query.special === null ? `row ${query.row + 1}, column ${query.column + 1}` : specialTokens(layer)[query.special];
        p.view.setAttribute("aria-label", `${data.models[p.model].label}. ${which}. Query: ${place}. Arrow keys move it.`);
        p.find(".most").textContent = digits(ends);
        photograph(p);
        overlay(p, layer, query, ends);
        value(p);
        numbers(p, layer, query);
        heads(p, layer, query);
      });
    }

    controls.common.closest("label").hidden = panels.length < 2;
    const changed = {
      image: (e) => (state.image = e.selectedIndex),
      layer: (e) => (state.layer = e.selectedIndex),
      head: (e) => (state.head = e.selectedIndex - 1),
      query: (e) => (state.special = e.selectedIndex > 0 ? e.selectedIndex - 1 : null),
    };
    for (const control of controls) {
      control.addEventListener("input", () => {
        changed[control.name]?.(control);
        show();
      });
    }
    root.querySelector("form").addEventListener("submit", (e) => e.preventDefault());
    show();
  }

  document.querySelectorAll(".explorer").forEach(explore);
})();

"use strict";
// What a memory looks back at in one episode: maps, step by step, beside what the environment showed.

const MANY = 60;
// Each of these starts from what the one before has found: the last is what the agent uses.
const CHAINS = ["read", "inner_step"];

class Recollection {
  constructor(parent, memory) {
    Object.assign(this, { parent, memory, step: 0, chosen: {} });
    this.walk = memory.scenes.successors ? new Walk(memory.scenes, memory.action) : null;
    this.episode = new Episode(memory, this.walk);
    this.maps = Object.fromEntries(Object.entries(memory.maps).map(([name, map]) => [name, unpack(map)]));
    [this.name] = Object.keys(this.maps);
    this.build();
  }

  get map() {
    return this.maps[this.name];
  }

  build() {
    const { memory, parent } = this,
      last = memory.steps - 1;
    const where = memory.ended
      ? `${memory.steps} steps, return ${short(this.episode.returns.at(-1), 4)}`
      : `its first ${memory.steps} steps`;
    parent.append(
      el("p", {}, `${memory.core} on ${memory.env}, ${splitName(memory.split)}, episode ${memory.episode}: ${where}.`),
    );
    if (memory.missing) missing(parent, [memory.missing]);
    this.slider = el("input", {
      type: "range",
      min: 0,
      max: last,
      value: 0,
      "aria-label": "step",
      input: () => this.go(Number(this.slider.value)),
    });
    this.where = el("output", { id: "where" });
    this.playing = el("button", { type: "button", click: () => this.play(), "aria-label": "play" }, "▶");
    const move = (by, text) =>
      el(
        "button",
        { type: "button", click: () => this.go(this.step + by), "aria-label": by < 0 ? "back" : "on" },
        text,
      );
    parent.append(
      el(
        "div",
        { id: "walk" },
        el("div", { class: "controls" }, this.playing, move(-1, "‹"), this.slider, move(1, "›"), this.where),
      ),
    );
    this.controls = el("div", { class: "controls" });
    this.meaning = el("p", { class: "quiet" });
    this.mapNode = el("div", { class: "chart", "data-chart": "map" });
    this.rowNode = el("div", { class: "chart", "data-chart": "row" });
    this.shown = el("div", {});
    this.said = el("ul", { id: "said" });
    const legend = this.walk
      ? el(
          "p",
          { class: "quiet" },
          "Filled: the agent. Ring: its goal. Dashed edges were not tried yet. " +
            (this.name && this.map.axes.at(-1) === "past"
              ? "Coloured edges are those that the memory looks back at: the stronger, the wider. "
              : "") +
            "The halo is the edge it takes now.",
        )
      : null;
    const picture =
      this.walk || memory.pictures.length ? [el("h3", {}, "What the environment shows"), this.shown, legend] : [];
    parent.append(
      el(
        "div",
        { class: "two" },
        el(
          "div",
          {},
          ...(this.name
            ? [this.controls, this.mapNode, this.meaning]
            : [el("p", { class: "quiet" }, "No map to draw.")]),
        ),
        el("div", { class: "shown" }, ...picture, el("h3", {}, "What happens"), this.said),
      ),
    );
    if (this.name) {
      parent.append((this.rowTitle = el("h3", {})), this.rowNode);
      this.choose();
    }
    this.traceNode = el("div", { class: "chart", "data-chart": "traces" });
    parent.append(el("h3", {}, "Over the episode"), this.traceNode);
    chart(this.traceNode, (colours) => this.episode.traces(this.step, colours));
    this.listen(this.traceNode, (point) => point.x);
    if (this.name) {
      chart(this.mapNode, (colours) => this.drawMap(colours));
      chart(this.rowNode, (colours) => this.drawRow(colours));
      this.listen(this.mapNode, (point) => point.y);
    }
    this.recolour = () => {
      if (parent.isConnected) this.go(this.step);
    };
    document.addEventListener("recolour", this.recolour);
    this.buildSteps();
    this.go(last);
  }

  /** Pointing at a chart, or touching it, goes to the step that `stepOf` finds there. */
  listen(node, stepOf) {
    const point = (event) => {
      const step = Math.round(stepOf(event.points[0]));
      if (step !== this.step) requestAnimationFrame(() => this.go(step));
    };
    node.on("plotly_hover", point);
    node.on("plotly_click", point);
  }

  /** The choices above the map. */
  choose() {
    const names = Object.keys(this.maps).map((name) => [name, name.replaceAll("_", " ")]);
    const rebuild = () => {
      this.choose();
      this.mapNode.redraw();
      this.rowNode.redraw();
      this.go(this.step);
    };
    const parts = [];
    if (names.length > 1)
      parts.push(
        choice("map", names, this.name, (name) => {
          this.name = name;
          rebuild();
        }),
      );
    for (const axis of this.map.axes.slice(1, -1)) {
      const all = positions(this.map, axis);
      this.chosen[axis] ??= CHAINS.includes(axis) ? String(all.length - 1) : MEAN;
      const options = [[MEAN, "mean"], ...all.map((text, i) => [String(i), text.replace(`${WORDS[axis]} `, "")])];
      parts.push(
        choice(WORDS[axis] ?? axis, options, this.chosen[axis], (value) => {
          this.chosen[axis] = value;
          rebuild();
        }),
      );
    }
    parts.push(csvButton(`map-${this.name}`, () => this.mapRows()));
    this.controls.replaceChildren(...parts);
    this.cells = plane(this.map, this.chosen);
    const every = this.cells.flat();
    this.ends = [every.reduce((a, b) => Math.min(a, b), 0), every.reduce((a, b) => Math.max(a, b), 0)];
    this.meaning.textContent = `A cell is the ${this.map.meaning}. Point at a row, or move the slider, to see one step.`;
  }

  mapRows() {
    const map = this.map,
      head = [...map.axes, "value"],
      rows = [];
    const visit = (at) => {
      if (at.length < map.axes.length) for (let i = 0; i < map.shape[at.length]; i++) visit([...at, i]);
      else rows.push([...at, map.cell(at)]);
    };
    visit([]);
    return [head, rows];
  }

  /** Marks of an axis of steps: what each taught or asks, where there is room. */
  stepAxis(text, vertical) {
    const count = this.memory.steps,
      named = this.walk && count <= 40 && !narrow.matches;
    const room = narrow.matches ? 10 : 20;
    const every = named ? 1 : ([1, 2, 5, 10, 20, 50].find((gap) => count / gap <= room) ?? 100);
    const at = Array.from({ length: count }, (_, i) => i).filter((i) => i % every === 0);
    return {
      tickvals: at,
      ticktext: at.map((i) => (named ? `${text(i)} · ${i}` : String(i))),
      tickangle: vertical ? 0 : named ? -90 : 0,
      tickfont: { size: 10 },
    };
  }

  columns() {
    const axis = this.map.axes.at(-1);
    if (axis === "past") return this.stepAxis((i) => this.walk.label(i), false);
    return { tickvals: this.cells[0].map((_, i) => i), ticktext: positions(this.map, axis), tickfont: { size: 11 } };
  }

  columnTitle() {
    const axis = this.map.axes.at(-1);
    if (axis !== "past") return WORDS[axis] ?? axis;
    return this.walk ? "step that was written, and the edge it taught" : "step that was written";
  }

  heat(rows, ends, colours, extra) {
    const { range, stops } = scale(...ends, colours.kind),
      gap = rows.length <= MANY && rows[0].length <= MANY ? 1 : 0;
    return {
      type: "heatmap",
      z: rows,
      zmin: range[0],
      zmax: range[1],
      colorscale: stops,
      xgap: gap,
      ygap: gap,
      colorbar: { thickness: 10, outlinewidth: 0, tickfont: { size: 10 } },
      ...extra,
    };
  }

  drawMap(colours) {
    const past = this.map.axes.at(-1) === "past",
      walk = this.walk;
    const columns = this.columns();
    const text =
      this.cells.length > MANY
        ? undefined
        : this.cells.map((row, r) =>
            row.map(
              (_, c) =>
                `step ${r}${walk ? ` (${walk.asks(r)})` : ""}<br>${past ? `written at ${c}${walk ? ` (${walk.label(c)})` : ""}` : columns.ticktext[c]}`,
            ),
          );
    const traces = [
      this.heat(this.cells, this.ends, colours, {
        text,
        hovertemplate: text
          ? "%{text}<br>%{z:.3f}<extra></extra>"
          : "step %{y}, written at %{x}: %{z:.3f}<extra></extra>",
      }),
    ];
    const layout = {
      height: narrow.matches ? 400 : walk ? 640 : 520,
      dragmode: false,
      xaxis: { ...columns, title: { text: this.columnTitle() }, showgrid: false, zeroline: false },
      yaxis: {
        ...this.stepAxis((i) => walk.asks(i), true),
        title: { text: walk ? "step that reads, and where it is" : "step that reads", standoff: 12 },
        autorange: "reversed",
        showgrid: false,
        zeroline: false,
      },
      shapes: [this.mark(colours)],
    };
    return { traces, layout };
  }

  /** The frame around the row of the present step. */
  mark(colours) {
    return {
      type: "rect",
      x0: -0.5,
      x1: this.cells[0].length - 0.5,
      y0: this.step - 0.5,
      y1: this.step + 0.5,
      line: { color: colours.accent, width: 2 },
    };
  }

  /** All positions of the innermost axis at the present step: reads, heads or slots. */
  drawRow(colours) {
    const axis = this.map.axes.length > 2 ? this.map.axes.at(-2) : null;
    const places = axis ? positions(this.map, axis) : [""];
    if (this.rowsOf !== this.cells) {
      this.rowsOf = this.cells;
      this.planes = places.map((_, i) => (axis ? plane(this.map, { ...this.chosen, [axis]: String(i) }) : this.cells));
      const every = this.planes.flat(2);
      this.rowEnds = [every.reduce((a, b) => Math.min(a, b), 0), every.reduce((a, b) => Math.max(a, b), 0)];
    }
    const rows = this.planes.map((rowsOfPlace) => rowsOfPlace[this.step]);
    const traces = [
      this.heat(rows, this.rowEnds, colours, {
        y: places.map((_, i) => i),
        showscale: rows.length > 2,
        hovertemplate: "%{y} · %{x}: %{z:.3f}<extra></extra>",
      }),
    ];
    const layout = {
      height: (narrow.matches || !this.walk ? 90 : 160) + 28 * rows.length,
      dragmode: false,
      hovermode: "closest",
      xaxis: { ...this.columns(), title: { text: this.columnTitle() }, showgrid: false, zeroline: false },
      yaxis: {
        tickvals: places.map((_, i) => i),
        ticktext: places,
        autorange: "reversed",
        showgrid: false,
        zeroline: false,
      },
    };
    return { traces, layout };
  }

  /** Show step t everywhere. */
  go(t) {
    const { memory } = this,
      last = memory.steps - 1;
    this.step = t = Math.min(last, Math.max(0, t));
    const colours = theme();
    this.slider.value = t;
    this.where.textContent = `step ${t} of ${last}`;
    Plotly.relayout(this.traceNode, { "shapes[0].x0": t, "shapes[0].x1": t });
    const weights = this.name && this.map.axes.at(-1) === "past" ? this.cells[t] : memory.reward.map(() => 0);
    if (this.name) {
      Plotly.relayout(this.mapNode, { "shapes[0].y0": t - 0.5, "shapes[0].y1": t + 0.5 });
      this.rowNode.redraw();
      this.rowTitle.textContent = `Step ${t} looks back at`;
    }
    if (this.walk)
      this.shown.replaceChildren(
        this.walk.draw(t, weights, scale(this.name && this.ends[0] < 0 ? -1 : 0, 1, colours.kind), colours),
      );
    else if (memory.pictures.length)
      this.shown.replaceChildren(el("img", { src: memory.pictures[t], alt: `the environment before step ${t}` }));
    this.said.replaceChildren(...this.episode.sentences(t, weights).map((text) => el("li", {}, text)));
    for (const row of this.rows ?? []) row.classList.toggle("here", Number(row.dataset.step) === t);
  }

  buildSteps() {
    const [head, rows] = this.episode.table();
    const shown = rows.map((row) =>
      row.map((value, i) => (typeof value === "number" && i ? { text: short(value), number: true } : value)),
    );
    const made = table(head, shown);
    this.rows = [...made.querySelectorAll("tbody tr")];
    this.rows.forEach((row, t) => {
      row.dataset.step = t;
      row.addEventListener("click", () => this.go(t));
    });
    this.parent.append(
      el("details", {}, el("summary", {}, "Step by step"), made),
      el(
        "div",
        { class: "controls" },
        csvButton("steps", () => [head, rows]),
      ),
    );
  }

  play() {
    if (this.timer) {
      clearInterval(this.timer);
      this.timer = null;
    } else {
      if (this.step === this.memory.steps - 1) this.go(0);
      this.timer = setInterval(() => {
        if (!this.parent.isConnected || this.step >= this.memory.steps - 1) this.play();
        else this.go(this.step + 1);
      }, 600);
    }
    this.playing.textContent = this.timer ? "❚❚" : "▶";
  }

  leave() {
    clearInterval(this.timer);
    document.removeEventListener("recolour", this.recolour);
    this.parent.replaceChildren();
  }
}

{
  const parent = section("memory", "Memory");
  missing(parent, data.missing.memory);
  const place = el("div", {});
  let shown = null;
  const show = (index) => {
    shown?.leave();
    shown = new Recollection(place, data.memories[index]);
  };
  if (data.memories.length > 1) {
    parent.append(
      el(
        "div",
        { class: "controls" },
        choice(
          "run",
          data.memories.map((memory, i) => [String(i), `${memory.core} · ${names[memory.run]}`]),
          "0",
          (i) => show(Number(i)),
        ),
      ),
    );
  }
  parent.append(place);
  if (data.memories.length) show(0);
}

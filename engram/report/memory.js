"use strict";
// What a memory looks back at while it goes through an episode or a sentence: a slider walks the steps.

class Recollection {
  constructor(parent, memory) {
    Object.assign(this, { parent, memory });
    this.steps = memory.words ? new Sentence(memory) : new Episode(memory);
    this.step = this.steps.first;
    const maps = Object.fromEntries(Object.entries(memory.maps).map(([name, map]) => [name, unpack(map)]));
    this.heatmaps = Object.keys(maps).length ? new Heatmaps(this.steps, maps, (t) => this.go(t)) : null;
    this.build();
  }

  build() {
    const { memory, parent, steps, heatmaps } = this,
      last = memory.steps - 1;
    parent.append(el("p", {}, steps.heading));
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
    this.shown = el("div", {
      click: ({ target }) => target.dataset.word !== undefined && this.go(Number(target.dataset.word)),
    });
    parent.append(
      el(
        "div",
        { id: "walk" },
        el("div", { class: "controls" }, this.playing, move(-1, "‹"), this.slider, move(1, "›"), this.where),
        steps.shows ? null : this.shown,
      ),
    );
    this.said = el("ul", { id: "said" });
    const legend = steps.legend(heatmaps?.past ?? false);
    const picture = steps.hasPicture
      ? [
          ...(steps.shows ? [el("h3", {}, steps.shows), this.shown] : []),
          legend ? el("p", { class: "quiet" }, legend) : null,
        ]
      : [];
    parent.append(
      el(
        "div",
        { class: `two of-${steps.kind}` },
        el(
          "div",
          {},
          ...(heatmaps
            ? [heatmaps.controls, heatmaps.mapNode, heatmaps.meaning]
            : [el("p", { class: "quiet" }, "No map to draw.")]),
        ),
        el("div", { class: "shown" }, ...picture, el("h3", {}, "What happens"), this.said),
      ),
    );
    if (heatmaps) parent.append(heatmaps.rowTitle, heatmaps.rowNode);
    this.traceNode = el("div", { class: "chart", "data-chart": "traces" });
    parent.append(el("h3", {}, `Over the ${steps.kind}`), this.traceNode);
    chart(this.traceNode, (colours) => steps.traces(this.step, colours));
    listen(
      this.traceNode,
      (point) => point.x,
      (t) => t !== this.step && this.go(t),
    );
    heatmaps?.draw();
    this.recolour = () => {
      if (parent.isConnected) this.go(this.step);
    };
    document.addEventListener("recolour", this.recolour);
    this.buildTable();
    this.tell();
  }

  /** Show step t everywhere. */
  go(t) {
    this.step = t = Math.min(this.memory.steps - 1, Math.max(0, t));
    Plotly.relayout(this.traceNode, { "shapes[0].x0": t, "shapes[0].x1": t });
    this.heatmaps?.show(t);
    this.tell();
  }

  /** Show the present step beside the charts. */
  tell() {
    const { memory, steps, heatmaps, step: t } = this,
      colours = theme();
    this.slider.value = t;
    this.where.textContent = `step ${t} of ${memory.steps - 1}`;
    const weights = heatmaps?.weights ?? Array(memory.steps).fill(0);
    if (steps.hasPicture) {
      const cells = scale((heatmaps?.ends[0] ?? 0) < 0 ? -1 : 0, 1, colours.kind);
      const picture = steps.picture(t, weights, cells, colours);
      if (picture !== this.shown.firstChild) this.shown.replaceChildren(picture);
    }
    this.said.replaceChildren(...steps.sentences(t, weights, heatmaps?.series ?? []).map((text) => el("li", {}, text)));
    for (const row of this.rows ?? []) row.classList.toggle("here", Number(row.dataset.step) === t);
  }

  buildTable() {
    const [head, rows] = this.steps.table();
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
      if (this.step >= this.steps.first) this.go(0);
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

function drawMemory(parent) {
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

"use strict";
// Learning curves of one environment, beside what its reference policies score.

// What is said of agents that learn in environments, and of models that learn from examples.
const LEARNING = {
  agents: {
    axis: "steps of all environments together",
    steps: "steps",
    lines:
      "Strong lines are evaluations, on held-out levels where the environment has them; pale lines are training " +
      "episodes.",
    dotted: " Dotted: reference policies, as scored below.",
  },
  models: {
    axis: "updates of the weights",
    steps: "updates",
    lines: "Strong lines are evaluations on the valid set; pale lines are training.",
    dotted: "",
  },
}[data.kind];

/** Seconds in a unit that suits the longest run. */
function timeUnit(seconds) {
  return seconds > 5400 ? ["hours", 3600] : seconds > 150 ? ["minutes", 60] : ["seconds", 1];
}

function drawCurves(parent, env) {
  const curves = data.curves.filter((curve) => curve.env === env);
  if (!curves.length) return;
  const quantities = unique(curves.map((curve) => curve.quantity));
  const labels = unique(curves.map((curve) => curve.label));
  const state = { axis: "step", quantity: quantities[0] };
  const node = el("div", { class: "chart", "data-chart": `curves ${env}` });

  const make = (colours) => {
    const drawn = curves.filter((curve) => curve.quantity === state.quantity);
    const last = Math.max(...drawn.map((curve) => curve.by[state.axis].x.at(-1)));
    const [unit, size] = state.axis === "seconds" ? timeUnit(last) : [LEARNING.steps, 1];
    const traces = [];
    const evaluated = new Set(drawn.filter((curve) => curve.kind === "test").map((curve) => curve.label));
    for (const curve of drawn) {
      const points = curve.by[state.axis],
        held = curve.kind === "test";
      const place = labels.indexOf(curve.label),
        colour = colours.lines[place % colours.lines.length];
      const x = points.x.map((value) => value / size),
        group = { legendgroup: curve.label, x };
      if (points.low) {
        const edge = { ...group, mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false };
        traces.push(
          { ...edge, y: points.low },
          { ...edge, y: points.high, fill: "tonexty", fillcolor: faint(colour, held ? 0.25 : 0.15) },
        );
      }
      traces.push({
        ...group,
        y: points.mean,
        name: curve.label,
        showlegend: held || !evaluated.has(curve.label),
        mode: held && points.x.length < 60 ? "lines+markers" : "lines",
        line: {
          color: held ? colour : faint(colour, 0.55),
          width: held ? 2.2 : 1.2,
          dash: place < colours.lines.length ? "solid" : "dash",
        },
        marker: { size: 5 },
        hovertemplate: `${curve.label}, ${held ? "held out" : "training"}: %{y:.4g}<extra></extra>`,
      });
    }
    const low = Math.min(...drawn.map((curve) => curve.by[state.axis].x[0])) / size;
    if (state.quantity === data.curves[0].quantity) traces.push(...references(env, [low, last / size], colours));
    const layout = {
      height: narrow.matches ? 340 : 430,
      hovermode: "x",
      xaxis: {
        title: {
          text: state.axis === "step" ? LEARNING.axis : `wall time of training, ${unit}`,
        },
      },
      yaxis: { title: { text: state.quantity } },
      legend: { orientation: "h", y: -0.2, yanchor: "top" },
    };
    return { traces, layout };
  };
  const change = (what) => (value) => {
    state[what] = value;
    node.redraw();
  };
  parent.append(
    el(
      "div",
      { class: "controls" },
      choice(
        "over",
        [
          ["step", LEARNING.steps],
          ["seconds", "wall time"],
        ],
        state.axis,
        change("axis"),
      ),
      quantities.length > 1
        ? choice(
            "show",
            quantities.map((name) => [name, name]),
            state.quantity,
            change("quantity"),
          )
        : null,
      csvButton(`curves-${env}`, () => curveRows(curves)),
    ),
  );
  parent.append(node);
  const seeds = curves.some((curve) => curve.by.step.low) ? " Bands are the range of the seeds, lines their mean." : "";
  parent.append(
    el(
      "p",
      { class: "quiet" },
      LEARNING.lines + seeds + LEARNING.dotted,
    ),
  );
  chart(node, make);
  const lastOf = (label, kind) => {
    const curve = curves.find((one) => one.label === label && one.kind === kind && one.quantity === quantities[0]);
    if (!curve) return [null, null];
    const values = curve.by.step.mean.filter((value) => value !== null);
    return [curve.by.step.mean.at(-1), (curve.lower_is_better ? Math.min : Math.max)(...values)];
  };
  const rows = labels.map((label) => {
    const curve = curves.find((one) => one.label === label);
    const evaluated = lastOf(label, "test");
    return [
      label,
      curve.by.step.x.at(-1),
      short(curve.by.seconds.x.at(-1) / 3600),
      ...[lastOf(label, "train")[0], ...evaluated].map((v) => short(v, 4)),
    ];
  });
  parent.append(
    el(
      "details",
      {},
      el("summary", {}, "Numbers"),
      table(
        ["run", LEARNING.steps, "hours", "training, last", "held out, last", "held out, best"],
        rows.map((row) =>
          row.map((value, i) =>
            i ? { text: typeof value === "number" ? value.toLocaleString("en") : value, number: true } : value,
          ),
        ),
      ),
    ),
  );
}

/** Levels of the reference policies, those of the same mean together. */
function references(env, ends, colours) {
  const rows = data.scores.filter((row) => row.env === env && row.policy !== AGENT);
  const held = rows.filter((row) => row.split === "test");
  const by = new Map();
  for (const row of held.length ? held : rows) by.set(row.mean, (by.get(row.mean) ?? new Set()).add(row.policy));
  return [...by].map(([mean, policies]) => ({
    x: ends,
    y: [mean, mean],
    mode: "lines+text",
    line: { dash: "dot", width: 1.2, color: colours.muted },
    text: ["", [...policies].join(", ")],
    textposition: "top left",
    textfont: { size: 11, color: colours.muted },
    cliponaxis: false,
    showlegend: false,
    hovertemplate: `${[...policies].join(", ")}: %{y:.4g}<extra></extra>`,
  }));
}

function curveRows(curves) {
  const rows = curves.flatMap((curve) => {
    const { x, mean, low, high } = curve.by.step,
      seconds = curve.by.seconds;
    return x.map((step, i) => [
      curve.label,
      curve.quantity,
      curve.kind,
      step,
      low ? null : seconds.x[i],
      mean[i],
      low?.[i],
      high?.[i],
    ]);
  });
  return [["curve", "quantity", "kind", "step", "seconds", "mean", "low", "high"], rows];
}

"use strict";
// What runs have in common: learning curves, scores, the spread of returns, and how their configs differ.

const names = Object.fromEntries(data.runs.map((run) => [run.folder, run.name]));
const environments = [...new Set(data.runs.map((run) => run.env))];
const AGENT = "agent";
const SPLITS = { train: "training levels", test: "held-out levels", valid: "validation levels" };
const splitName = (split) => SPLITS[split] ?? "all episodes";
const unique = (values) => [...new Set(values)];

document.getElementById("about").append(data.runs.map((run) => `${run.core} on ${run.env} (${run.name})`).join(", "));

// --- learning curves -----------------------------------------------------------------------------------------------

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
    const [unit, size] = state.axis === "seconds" ? timeUnit(last) : ["steps", 1];
    const traces = [];
    const evaluated = new Set(drawn.filter((curve) => curve.kind === "test").map((curve) => curve.label));
    for (const curve of drawn) {
      const points = curve.by[state.axis], held = curve.kind === "test";
      const place = labels.indexOf(curve.label), colour = colours.lines[place % colours.lines.length];
      const x = points.x.map((value) => value / size), group = { legendgroup: curve.label, x };
      if (points.low) {
        const edge = { ...group, mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false };
        traces.push({ ...edge, y: points.low },
          { ...edge, y: points.high, fill: "tonexty", fillcolor: faint(colour, held ? 0.25 : 0.15) });
      }
      traces.push({
        ...group, y: points.mean, name: curve.label, showlegend: held || !evaluated.has(curve.label),
        mode: held && points.x.length < 60 ? "lines+markers" : "lines",
        line: { color: held ? colour : faint(colour, 0.55), width: held ? 2.2 : 1.2,
          dash: place < colours.lines.length ? "solid" : "dash" },
        marker: { size: 5 },
        hovertemplate: `${curve.label}, ${held ? "held out" : "training"}: %{y:.4g}<extra></extra>`,
      });
    }
    const low = Math.min(...drawn.map((curve) => curve.by[state.axis].x[0])) / size;
    if (state.quantity === data.curves[0].quantity) traces.push(...references(env, [low, last / size], colours));
    const layout = {
      height: narrow.matches ? 340 : 430, hovermode: "x",
      xaxis: { title: { text: state.axis === "step" ? "steps of all environments together" : `wall time of training, ${unit}` } },
      yaxis: { title: { text: state.quantity } },
      legend: { orientation: "h", y: -0.2, yanchor: "top" },
    };
    return { traces, layout };
  };
  const change = (what) => (value) => { state[what] = value; node.redraw(); };
  parent.append(el("div", { class: "controls" },
    choice("over", [["step", "steps"], ["seconds", "wall time"]], state.axis, change("axis")),
    quantities.length > 1 ? choice("show", quantities.map((name) => [name, name]), state.quantity, change("quantity")) : null,
    csvButton(`curves-${env}`, () => curveRows(curves))));
  parent.append(node);
  const seeds = curves.some((curve) => curve.by.step.low) ? " Bands are the range of the seeds, lines their mean." : "";
  parent.append(el("p", { class: "quiet" }, "Strong lines are evaluations, on held-out levels where the environment has " +
    `them; pale lines are training episodes.${seeds} Dotted: reference policies, as scored below.`));
  chart(node, make);
  const lastOf = (label, kind) => {
    const curve = curves.find((one) => one.label === label && one.kind === kind && one.quantity === quantities[0]);
    return curve ? [curve.by.step.mean.at(-1), Math.max(...curve.by.step.mean.filter((value) => value !== null))] : [null, null];
  };
  const rows = labels.map((label) => {
    const curve = curves.find((one) => one.label === label);
    const evaluated = lastOf(label, "test");
    return [label, curve.by.step.x.at(-1), short(curve.by.seconds.x.at(-1) / 3600), ...[lastOf(label, "train")[0], ...evaluated].map((v) => short(v, 4))];
  });
  parent.append(el("details", {}, el("summary", {}, "Numbers"), table(
    ["run", "steps", "hours", "training, last", "held out, last", "held out, best"],
    rows.map((row) => row.map((value, i) => (i ? { text: typeof value === "number" ? value.toLocaleString("en") : value, number: true } : value))))));
}

/** Levels of the reference policies, those of the same mean together. */
function references(env, ends, colours) {
  const rows = data.scores.filter((row) => row.env === env && row.policy !== AGENT);
  const held = rows.filter((row) => row.split === "test");
  const by = new Map();
  for (const row of held.length ? held : rows) by.set(row.mean, (by.get(row.mean) ?? new Set()).add(row.policy));
  return [...by].map(([mean, policies]) => ({
    x: ends, y: [mean, mean], mode: "lines+text", line: { dash: "dot", width: 1.2, color: colours.muted },
    text: ["", [...policies].join(", ")], textposition: "top left", textfont: { size: 11, color: colours.muted },
    cliponaxis: false, showlegend: false, hovertemplate: `${[...policies].join(", ")}: %{y:.4g}<extra></extra>`,
  }));
}

function curveRows(curves) {
  const rows = curves.flatMap((curve) => {
    const { x, mean, low, high } = curve.by.step, seconds = curve.by.seconds;
    return x.map((step, i) => [curve.label, curve.quantity, curve.kind, step,
      low ? null : seconds.x[i], mean[i], low?.[i], high?.[i]]);
  });
  return [["curve", "quantity", "kind", "step", "seconds", "mean", "low", "high"], rows];
}

// --- scores --------------------------------------------------------------------------------------------------------

/** Rows of one environment by run and policy; references that scored the same beside several runs count once. */
function scored(env) {
  const by = new Map();
  for (const row of data.scores.filter((one) => one.env === env)) {
    const key = row.policy === AGENT ? row.run : `${row.run} ${row.policy}`;
    by.set(key, [...(by.get(key) ?? []), row]);
  }
  const found = new Map();
  for (const rows of by.values()) {
    const same = rows[0].policy === AGENT ? rows[0].run : JSON.stringify(rows.map((row) => [row.policy, row.split, row.mean, row.episodes]));
    if (!found.has(same)) found.set(same, rows);
  }
  const order = [...found.values()];
  return [...order.filter(([row]) => row.policy === AGENT), ...order.filter(([row]) => row.policy !== AGENT)];
}

function who(row, all) {
  if (row.policy === AGENT) return `${row.core} · ${names[row.run]}`;
  const others = all.filter(([other]) => other.policy === row.policy).length;
  return others > 1 ? `${row.policy} · as ${names[row.run]}` : row.policy;
}

function drawScores(parent, env) {
  const groups = scored(env);
  if (!groups.length) return;
  const splits = unique(groups.flat().map((row) => row.split));
  const cellOf = (rows, split) => {
    const row = rows.find((one) => one.split === split);
    return row ? { text: row.shown, number: true } : null;
  };
  const shown = groups.map((rows) => [who(rows[0], groups), { text: rows[0].policy === AGENT ? rows[0].step.toLocaleString("en") : "", number: true },
    ...splits.map((split) => cellOf(rows, split))]);
  const made = table(["policy", "steps of training", ...splits.map(splitName)], shown, (_, i) => (groups[i][0].policy === AGENT ? "agent" : undefined));
  made.dataset.scores = env;
  const fields = ["run", "env", "core", "step", "policy", "split", "actions", "episodes", "seed", "mean", "standard_error", "success_rate"];
  parent.append(made, el("div", { class: "controls" }, csvButton(`scores-${env}`, () => [fields,
    data.scores.filter((row) => row.env === env).map((row) => fields.map((field) => row[field]))])));
  const first = groups[0][0], success = groups.flat().some((row) => row.success_rate !== null) ? " (share of successful episodes)" : "";
  parent.append(el("p", { class: "quiet" }, `Undiscounted return of an episode, mean ± standard error over ` +
    `${first.episodes.toLocaleString("en")} episodes${success}; ${first.actions} actions, seed ${first.seed}.`));
}

function drawReturns(parent, env) {
  const groups = scored(env);
  if (!groups.length) return;
  const splits = unique(groups.flat().map((row) => row.split));
  const state = { split: splits.includes("test") ? "test" : splits[0] };
  const node = el("div", { class: "chart", "data-chart": `returns ${env}` });
  const make = (colours) => {
    const rows = groups.map((group) => group.find((row) => row.split === state.split)).filter(Boolean).reverse();
    let agents = rows.filter((row) => row.policy === AGENT).length;
    const traces = rows.map((row) => {
      const colour = row.policy === AGENT ? colours.lines[--agents % colours.lines.length] : "#8a93a0";
      return {
        type: "violin", orientation: "h", x: row.returns, y: row.returns.map(() => who(row, groups)), name: who(row, groups),
        scalemode: "width", width: 0.85, spanmode: "hard", points: false, meanline: { visible: true }, box: { visible: true, width: 0.2 },
        line: { color: colour, width: 1.3 }, fillcolor: faint(colour, 0.3), showlegend: false, hoveron: "violins", hoverinfo: "x",
      };
    });
    const layout = { height: 70 + 46 * rows.length, violinmode: "overlay",
      xaxis: { title: { text: `${narrow.matches ? "" : "undiscounted "}return of an episode, ${splitName(state.split)}` } }, yaxis: { type: "category", showgrid: false } };
    return { traces, layout };
  };
  parent.append(el("h3", {}, "Returns of single episodes"), el("div", { class: "controls" },
    splits.length > 1 ? choice("on", splits.map((split) => [split, splitName(split)]), state.split, (split) => { state.split = split; node.redraw(); }) : null,
    csvButton(`returns-${env}`, () => [["policy", "run", "split", "episode", "return"], groups.flat().flatMap((row) =>
      row.returns.map((value, episode) => [row.policy, row.run, row.split, episode, value]))])));
  parent.append(node, el("p", { class: "quiet" }, "The width is how often a return comes; the box holds the middle half, the dashed line is the mean."));
  chart(node, make);
}

// --- configs -------------------------------------------------------------------------------------------------------

function drawConfigs(parent) {
  const plain = (value) => (value === null ? "None" : typeof value === "string" ? value : JSON.stringify(value));
  const rows = Object.entries(data.differences).map(([field, values]) => [field, ...values.map(plain)]);
  const head = ["setting", ...data.runs.map((run) => run.name)];
  if (rows.length) parent.append(table(head, rows), el("p", { class: "quiet" }, "All other settings are the same."));
  else if (data.runs.length > 1) parent.append(el("p", {}, "The runs have the same settings."));
  const fields = unique(data.configs.flatMap((config) => Object.keys(config)));
  const all = fields.map((field) => [field, ...data.configs.map((config) => plain(field in config ? config[field] : "absent"))]);
  parent.append(el("details", {}, el("summary", {}, "All settings"), table(head, all)),
    el("div", { class: "controls" }, csvButton("settings", () => [head, all])));
}

{
  const several = environments.length > 1;
  const heading = (parent, env) => { if (several) parent.append(el("h3", {}, env)); };
  const curves = section("curves", "Learning curves");
  missing(curves, data.missing.curves);
  for (const env of environments) { heading(curves, env); drawCurves(curves, env); }
  const scores = section("scores", "Scores");
  missing(scores, data.missing.scores);
  for (const env of environments) { heading(scores, env); drawScores(scores, env); drawReturns(scores, env); }
  drawConfigs(section("settings", "Settings"));
}

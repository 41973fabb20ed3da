"use strict";
// Scores of one environment as a table, and the returns of single episodes.

/** Rows of one environment by run and policy; references that scored the same beside several runs count once. */
function scored(env) {
  const by = new Map();
  for (const row of data.scores.filter((one) => one.env === env)) {
    const key = row.policy === AGENT ? row.run : `${row.run} ${row.policy}`;
    by.set(key, [...(by.get(key) ?? []), row]);
  }
  const found = new Map();
  for (const rows of by.values()) {
    const same =
      rows[0].policy === AGENT
        ? rows[0].run
        : JSON.stringify(rows.map((row) => [row.policy, row.split, row.mean, row.episodes]));
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
  const shown = groups.map((rows) => [
    who(rows[0], groups),
    { text: rows[0].policy === AGENT ? rows[0].step.toLocaleString("en") : "", number: true },
    ...splits.map((split) => cellOf(rows, split)),
  ]);
  const made = table(["policy", "steps of training", ...splits.map(splitName)], shown, (_, i) =>
    groups[i][0].policy === AGENT ? "agent" : undefined,
  );
  made.dataset.scores = env;
  const fields = [
    "run",
    "env",
    "core",
    "step",
    "policy",
    "split",
    "actions",
    "episodes",
    "repeats",
    "seed",
    "mean",
    "standard_error",
    "deviation",
    "success_rate",
    "human_normalised",
  ];
  parent.append(
    made,
    el(
      "div",
      { class: "controls" },
      csvButton(`scores-${env}`, () => [
        fields,
        data.scores.filter((row) => row.env === env).map((row) => fields.map((field) => row[field])),
      ]),
    ),
  );
  const first = groups[0][0],
    episodes = (first.repeats > 1 ? `${first.repeats} x ` : "") + first.episodes.toLocaleString("en");
  parent.append(
    el(
      "p",
      { class: "quiet" },
      `${first.legend[0].toUpperCase()}${first.legend.slice(1)}; ` +
        `${episodes} episodes, ${first.actions} actions, seed ${first.seed}.`,
    ),
  );
}

function drawReturns(parent, env) {
  const groups = scored(env);
  if (!groups.length) return;
  const splits = unique(groups.flat().map((row) => row.split));
  const state = { split: splits.includes("test") ? "test" : splits[0] };
  const node = el("div", { class: "chart", "data-chart": `returns ${env}` });
  const make = (colours) => {
    const rows = groups
      .map((group) => group.find((row) => row.split === state.split))
      .filter(Boolean)
      .reverse();
    let agents = rows.filter((row) => row.policy === AGENT).length;
    const traces = rows.map((row) => {
      const colour = row.policy === AGENT ? colours.lines[--agents % colours.lines.length] : "#8a93a0";
      return {
        type: "violin",
        orientation: "h",
        x: row.returns,
        y: row.returns.map(() => who(row, groups)),
        name: who(row, groups),
        scalemode: "width",
        width: 0.85,
        spanmode: "hard",
        points: false,
        meanline: { visible: true },
        box: { visible: true, width: 0.2 },
        line: { color: colour, width: 1.3 },
        fillcolor: faint(colour, 0.3),
        showlegend: false,
        hoveron: "violins",
        hoverinfo: "x",
      };
    });
    const layout = {
      height: 70 + 46 * rows.length,
      violinmode: "overlay",
      xaxis: {
        title: { text: `${narrow.matches ? "" : "undiscounted "}return of an episode, ${splitName(state.split)}` },
      },
      yaxis: { type: "category", showgrid: false },
    };
    return { traces, layout };
  };
  parent.append(
    el("h3", {}, "Returns of single episodes"),
    el(
      "div",
      { class: "controls" },
      splits.length > 1
        ? choice(
            "on",
            splits.map((split) => [split, splitName(split)]),
            state.split,
            (split) => {
              state.split = split;
              node.redraw();
            },
          )
        : null,
      csvButton(`returns-${env}`, () => [
        ["policy", "run", "split", "episode", "return"],
        groups
          .flat()
          .flatMap((row) => row.returns.map((value, episode) => [row.policy, row.run, row.split, episode, value])),
      ]),
    ),
  );
  parent.append(
    node,
    el(
      "p",
      { class: "quiet" },
      "The width is how often a return comes; the box holds the middle half, the dashed line is the mean.",
    ),
  );
  chart(node, make);
}

"use strict";
// The sections of a page, in the order of what it is about.

const SECTIONS = {
  curves: ["Learning curves", (parent) => ofEach(parent, data.missing.curves, drawCurves)],
  scores: ["Scores", (parent) => ofEach(parent, data.missing.scores, drawScores, drawReturns)],
  settings: ["Settings", drawConfigs],
  memory: ["Memory", drawMemory],
};
const ORDER = {
  agents: ["curves", "scores", "settings", "memory"],
  models: ["memory", "curves", "settings"],
};

/** Draw what is about the runs of one environment after the other. */
function ofEach(parent, lines, ...draw) {
  missing(parent, lines);
  for (const env of environments) {
    if (environments.length > 1) parent.append(el("h3", {}, env));
    for (const one of draw) one(parent, env);
  }
}

const waiting = ORDER[data.kind].map((name) => {
  const [title, draw] = SECTIONS[name];
  return [section(name, title), draw];
});

function drawNext() {
  const [parent, draw] = waiting.shift();
  draw(parent);
}

/** The first section comes with the page, the others once it is seen: nobody waits for what is further down. */
function drawRest() {
  if (!waiting.length) return;
  drawNext();
  setTimeout(drawRest);
}

drawNext();
addEventListener("load", () => setTimeout(drawRest));
addEventListener("beforeprint", () => {
  while (waiting.length) drawNext();
});

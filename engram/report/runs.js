"use strict";
// The runs, and how their settings differ.

const names = Object.fromEntries(data.runs.map((run) => [run.folder, run.name]));
const environments = [...new Set(data.runs.map((run) => run.env))];
const AGENT = "agent";
const SPLITS = { train: "training levels", test: "held-out levels", valid: "validation levels" };
const splitName = (split) => SPLITS[split] ?? "all episodes";
const unique = (values) => [...new Set(values)];

document.getElementById("about").append(data.runs.map((run) => `${run.core} on ${run.env} (${run.name})`).join(", "));

function drawConfigs(parent) {
  const plain = (value) => (value === null ? "None" : typeof value === "string" ? value : JSON.stringify(value));
  const rows = Object.entries(data.differences).map(([field, values]) => [field, ...values.map(plain)]);
  const head = ["setting", ...data.runs.map((run) => run.name)];
  if (rows.length) parent.append(table(head, rows), el("p", { class: "quiet" }, "All other settings are the same."));
  else if (data.runs.length > 1) parent.append(el("p", {}, "The runs have the same settings."));
  const fields = unique(data.configs.flatMap((config) => Object.keys(config)));
  const all = fields.map((field) => [
    field,
    ...data.configs.map((config) => plain(field in config ? config[field] : "absent")),
  ]);
  parent.append(
    el("details", {}, el("summary", {}, "All settings"), table(head, all)),
    el(
      "div",
      { class: "controls" },
      csvButton("settings", () => [head, all]),
    ),
  );
}

"use strict";
// The page is whole without this script; it only hides what a search does not find.
const search = document.getElementById("search");
const wrongOnly = document.getElementById("wrong-only");
const found = document.getElementById("found");
const nodes = Array.from(document.querySelectorAll("li[data-kind]"));
const parents = new Map(nodes.map((node) => [node, node.parentElement.closest("li[data-kind]")]));
// What a box says itself, without the boxes behind it.
const texts = new Map(nodes.map((node) => {
  const parts = node.querySelectorAll(":scope > .card > :not(.behind)");
  return [node, Array.from(parts, (part) => part.textContent).join(" ").toLowerCase()];
}));
const lists = Array.from(document.querySelectorAll("details"), (list) => [list, list.open]);

function filter() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const all = !words.length && !wrongOnly.checked;
  const shown = new Set();
  let hits = 0;
  for (const node of nodes) {
    const wrong = !wrongOnly.checked || node.matches(".wrong");
    if (!all && !(wrong && words.every((word) => texts.get(node).includes(word)))) continue;
    hits += 1;
    for (let each = node; each && !shown.has(each); each = parents.get(each)) shown.add(each);
  }
  for (const node of nodes) node.hidden = !shown.has(node);
  for (const [list, open] of lists) {
    const rows = Array.from(list.querySelectorAll(".forwards > li"));
    const hit = rows.map((row) => words.every((word) => row.textContent.toLowerCase().includes(word)));
    list.open = words.length && hit.includes(true) ? true : open;
  }
  found.textContent = all ? "" : `${hits} found`;
}

function fromAddress() {
  const match = /^#search=(.*)$/.exec(location.hash);
  if (match) search.value = decodeURIComponent(match[1]);
  filter();
}

search.addEventListener("input", filter);
wrongOnly.addEventListener("change", filter);
window.addEventListener("hashchange", fromAddress);
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && document.activeElement !== search) {
    event.preventDefault();
    search.focus();
  }
});
fromAddress();

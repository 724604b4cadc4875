// Sorts and copies the table beside this script. Where scripts do not run, the table is there all the same.
(() => {
  const beside = document.currentScript && document.currentScript.previousElementSibling;
  const box = beside && beside.id === "TABLE_ID" ? beside : document.getElementById("TABLE_ID");
  if (!box || box.querySelector("button")) return;
  const table = box.querySelector("table");
  const heads = Array.from(table.tHead.rows[0].cells);
  const first = Array.from(table.tBodies[0].rows);
  const text = (cell) => cell.dataset.name || cell.textContent.trim().replace(/\s+/g, " ");
  const number = (told) => {  // 91.7 of "91.7 ± 0.2", but none of "3-way"
    const found = /^[+-]?\d[\d,]*(\.\d+)?(?![\w-])/.exec(told.replace("−", "-"));
    return found ? parseFloat(found[0].replace(/,/g, "")) : null;
  };
  const compare = (one, other) => {
    const [a, b] = [number(one), number(other)];
    if (a !== null && b !== null) return a - b;
    if ((a === null) !== (b === null)) return a === null ? 1 : -1;
    return one.localeCompare(other, undefined, {numeric: true});
  };

  const sort = (place) => {  // rising, then falling, then as it was
    const next = {none: "ascending", ascending: "descending", descending: "none"}[heads[place].ariaSort || "none"];
    heads.forEach((head, each) => {
      head.ariaSort = each === place ? next : "none";
      head.querySelector("[aria-hidden]").textContent = {ascending: " ▲", descending: " ▼"}[head.ariaSort] || "";
    });
    const rows = first.slice();
    const sign = next === "descending" ? -1 : 1;
    if (next !== "none") rows.sort((a, b) => sign * compare(text(a.cells[place]), text(b.cells[place])));
    table.tBodies[0].append(...rows);
  };
  heads.forEach((head, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.style.cssText = "font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer";
    button.title = "Sort by this column";
    head.dataset.name = text(head);
    button.append(head.dataset.name || "row");
    const arrow = document.createElement("span");
    arrow.setAttribute("aria-hidden", "true");
    button.append(arrow);
    button.addEventListener("click", () => sort(place));
    head.replaceChildren(button);
    head.ariaSort = "none";
  });

  const lines = () => [heads, ...Array.from(table.tBodies[0].rows, (row) => Array.from(row.cells))]
    .map((cells) => cells.map(text));
  const kinds = {
    TSV: () => lines().map((cells) => cells.join("\t")).join("\n") + "\n",
    Markdown: () => lines().map((cells, place) => {
      const line = "| " + cells.map((each) => each.replace(/\|/g, "\\|")).join(" | ") + " |";
      return place ? line : line + "\n|" + " --- |".repeat(cells.length);
    }).join("\n") + "\n",
  };
  const bar = document.createElement("div");
  bar.style.cssText = "font-size: 0.85em; margin-top: 0.2em";
  const said = document.createElement("span");
  said.setAttribute("role", "status");
  const copy = (name, content) => {
    const told = () => { said.textContent = `${first.length} rows copied as ${name}`; };
    const older = () => {
      const area = document.createElement("textarea");
      area.value = content;
      bar.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
      told();
    };
    if (navigator.clipboard) navigator.clipboard.writeText(content).then(told, older);
    else older();
  };
  for (const [name, content] of Object.entries(kinds)) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = `Copy as ${name}`;
    button.style.cssText = "font: inherit; margin-right: 0.6em; cursor: pointer";
    button.addEventListener("click", () => copy(name, content()));
    bar.append(button);
  }
  bar.append(said);
  box.append(bar);
})();

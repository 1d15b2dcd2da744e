"use strict";
// Tables sort by their headings, and long ones can be filtered; without scripts they are as they stand.
for (const table of document.querySelectorAll("table.data")) {
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const key = (row, column) => row.cells[column].dataset.order;
  const compare = (column) => (a, b) => {
    const [x, y] = [key(a, column), key(b, column)];
    if (x !== undefined && y !== undefined) return x - y;
    if (x !== undefined || y !== undefined) return x === undefined ? 1 : -1; // what is no number: last
    return a.cells[column].textContent.localeCompare(b.cells[column].textContent);
  };
  Array.from(table.tHead.rows[0].cells).forEach((heading, column) => {
    if (rows.length < 2 || !heading.textContent.trim()) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const upward = heading.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", upward ? "ascending" : "descending");
      const sorted = rows.slice().sort(compare(column));
      body.append(...(upward ? sorted : sorted.reverse()));
    });
  });
  if (rows.length < 9) continue;
  const label = document.createElement("label");
  label.className = "filter";
  label.append("Rows with ");
  const input = document.createElement("input");
  input.type = "search";
  input.setAttribute("aria-label", "Show rows of \u201c" + table.caption.textContent.trim() + "\u201d with this text");
  input.addEventListener("input", () => {
    const wanted = input.value.toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  });
  label.append(input);
  table.parentElement.before(label);
}

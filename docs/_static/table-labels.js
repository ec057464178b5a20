// On a phone the rows of a wide table are stacked, and each cell has the title of its column.
for (const table of document.querySelectorAll("table.docutils")) {
  const titles = [...table.querySelectorAll("thead th")].map((title) => title.textContent.trim());
  table.classList.toggle("stacked", titles.length > 2);
  for (const row of table.tBodies[0].rows) {
    [...row.cells].forEach((cell, column) => { cell.dataset.label = titles[column] ?? ""; });
  }
}

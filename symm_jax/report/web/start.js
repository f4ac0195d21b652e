// Everything is defined: draw the page.

map.start();
startRetrieval();
if (data.charts.length) $("charts").replaceChildren(...data.charts.map(drawChart));
else $("charts").replaceChildren(h("p", { class: "note" }, "Nothing was logged."));
if (data.points) drawPoints();
else for (const id of ["points", "to-points"]) $(id).remove();

"use strict";
// The search of the address goes with the token.
document.getElementById("login").action = `/login${location.search}`;
// Browsers send a strict cookie only when this site itself asks: after a link from another site, ask again.
if (location.pathname === "/" && performance.getEntriesByType("navigation")[0]?.type === "navigate") {
  fetch("/api/session").then((response) => response.json()).then((session) => session.open && location.reload());
}

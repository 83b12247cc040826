// The filter of the changed answers; everything else works without a script.
(function () {
  var form = document.getElementById("filter");
  if (!form) return;
  var groups = Array.prototype.slice.call(document.querySelectorAll("details.group"));
  var atFirst = groups.map(function (group) { return group.open; });
  var KINDS = ["lost", "other", "won"];  // a group says how many it has of each, kept on this page or not
  form.hidden = false;

  function value(name) { return form.elements[name] ? form.elements[name].value.trim().toLowerCase() : ""; }

  function apply() {
    var scheme = value("scheme"), kind = value("kind"), words = value("text").split(/\s+/).filter(Boolean);
    var active = Boolean(scheme || kind || words.length), shown = 0, kept = 0, there = 0;
    groups.forEach(function (group, at) {
      var inScheme = !scheme || group.dataset.scheme.toLowerCase() === scheme, mine = 0;
      Array.prototype.forEach.call(group.querySelectorAll(".change"), function (card) {
        var said = card.textContent.toLowerCase(), asked = inScheme && (!kind || card.dataset.kind === kind);
        var fits = asked && words.every(function (word) { return said.indexOf(word) >= 0; });
        card.hidden = !fits;
        kept += asked ? 1 : 0;
        mine += fits ? 1 : 0;
      });
      if (inScheme) (kind ? [kind] : KINDS).forEach(function (name) { there += Number(group.dataset[name] || 0); });
      shown += mine;
      group.hidden = active && !mine;
      group.open = active ? mine > 0 : atFirst[at];
      var more = group.querySelector("details.more");
      if (more) more.open = active && more.querySelector(".change:not([hidden])") !== null;
    });
    form.querySelector("output").textContent = active ? shown + " of " + kept + " shown" +
      (kept < there ? "; this page keeps the worst " + kept + " of " + there + " that there are" : "") : "";
  }

  form.addEventListener("input", apply);
  form.addEventListener("submit", function (event) { event.preventDefault(); });
})();

// The filter of the changed answers; everything else works without a script.
(function () {
  var form = document.getElementById("filter");
  if (!form) return;
  var groups = Array.prototype.slice.call(document.querySelectorAll("details.group"));
  var atFirst = groups.map(function (group) { return group.open; });
  form.hidden = false;

  function value(name) { return form.elements[name] ? form.elements[name].value.trim().toLowerCase() : ""; }

  function apply() {
    var scheme = value("scheme"), kind = value("kind"), words = value("text").split(/\s+/).filter(Boolean);
    var active = Boolean(scheme || kind || words.length), shown = 0, all = 0;
    groups.forEach(function (group, at) {
      var inScheme = !scheme || group.dataset.scheme.toLowerCase() === scheme, mine = 0;
      Array.prototype.forEach.call(group.querySelectorAll(".change"), function (card) {
        var said = card.textContent.toLowerCase();
        var fits = inScheme && (!kind || card.dataset.kind === kind) &&
          words.every(function (word) { return said.indexOf(word) >= 0; });
        card.hidden = !fits;
        all += 1;
        mine += fits ? 1 : 0;
      });
      shown += mine;
      group.hidden = active && !mine;
      group.open = active ? mine > 0 : atFirst[at];
      var more = group.querySelector("details.more");
      if (more) more.open = active && more.querySelector(".change:not([hidden])") !== null;
    });
    form.querySelector("output").textContent = active ? shown + " of " + all + " shown" : "";
  }

  form.addEventListener("input", apply);
  form.addEventListener("submit", function (event) { event.preventDefault(); });
})();

% rebase("layout.tpl")
<main id="main" data-live="{{live}}" data-version="{{data_version}}" data-bus="{{bus}}">
<h1>{{title}}</h1>
<p class="buttons"><a class="button" href="/scenarios/new">{{t("New scenario")}}</a>
<a class="button" href="/scenarios/import">{{t("Import")}}</a>
% if rows:
<a class="button" href="/scenarios/export">{{t("Export all")}}</a>
% end
</p>
% if problem:
<p class="trouble">{{problem}}</p>
% elif not rows:
<p class="empty">{{t("There is no scenario yet. Begin with an example: New scenario.")}}</p>
% end
% if rows:
<ul class="card">
% for row, one in rows:
<li class="server scenario" data-key="{{row.key}}" data-state="{{row.state}}" data-form="{{"active" if one.active else "off"}}">
<h2><a href="{{path_of(one.name)}}">{{one.called}}</a> <small>{{one.name if one.label else ""}}</small> <b class="badge" data-cell="badge">{{row.cells["badge"]}}</b></h2>
<p data-cell="story">{{row.cells["story"]}}</p>
<p class="facts" data-cell="facts">{{row.cells["facts"]}}</p>
<form class="buttons" method="post" action="{{path_of(one.name)}}">
<input type="hidden" name="csrf" value="{{visit.csrf}}">
<input type="hidden" name="back" value="/scenarios">
<button id="run {{one.name}}" name="action" value="run" aria-label="{{t("Run {name}", name=one.name)}}">{{t("Run")}}</button>
<button id="stop {{one.name}}" name="action" value="stop" aria-label="{{t("Stop {name}", name=one.name)}}">{{t("Stop")}}</button>
% if one.active:
<button id="able {{one.name}}" name="action" value="disable" aria-label="{{t("Disable {name}", name=one.name)}}">{{t("Disable")}}</button>
% else:
<button id="able {{one.name}}" name="action" value="enable" aria-label="{{t("Enable {name}", name=one.name)}}">{{t("Enable")}}</button>
% end
<a href="/scenarios/{{one.name}}/edit" aria-label="{{t("Change {name}", name=one.name)}}">{{t("Change…")}}</a>
</form>
</li>
% end
</ul>
% end
</main>

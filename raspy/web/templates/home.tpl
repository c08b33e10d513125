% rebase("layout.tpl")
<main id="main" class="home" data-live="{{live}}" data-version="{{data_version}}" data-bus="{{bus}}">
<h1>{{title}}</h1>
% if boot_problems:
<section aria-labelledby="boot" class="alarms">
<h2 id="boot">{{t("Found at the start of the machine")}}</h2>
% for each in boot_problems:
<p class="card trouble">{{each}}</p>
% end
</section>
% end
% if alarms:
% calls = {"acknowledge": t("Acknowledge"), "shelve": t("Shelve for an hour"), "unshelve": t("Unshelve")}
<section aria-labelledby="alarms" class="alarms">
<h2 id="alarms">{{t("Alarms")}}</h2>
<ul class="card">
% for row, state in alarms:
<li class="server alarm" data-key="{{row.key}}" data-state="{{row.state}}" data-form="{{state}}">
<h3>{{row.label}} <b class="badge" data-cell="badge">{{row.cells["badge"]}}</b></h3>
<p class="trouble" data-cell="story">{{row.cells["story"]}}</p>
<p class="facts" data-cell="facts">{{row.cells["facts"]}}</p>
<form class="buttons" method="post" action="/alarm">
<input type="hidden" name="csrf" value="{{visit.csrf}}">
<input type="hidden" name="name" value="{{row.key.removeprefix("/alarm/")}}">
% for action, _ in can(state):
<button id="{{action}}:{{row.key}}" name="action" value="{{action}}" aria-label="{{calls[action]}}: {{row.label}}">{{calls[action]}}</button>
% end
</form>
</li>
% end
</ul>
</section>
% end
<section aria-labelledby="values" class="values">
<h2 id="values">{{t("Values")}}</h2>
<p class="meta">
% if any(device.outputs for device in devices):
<a href="/modes">{{t("Modes of all outputs")}}</a>
% end
<a href="/device/new">{{t("New device")}}</a>
</p>
% if not devices:
<p class="empty">{{t("There is no value on the bus yet.")}}</p>
% end
<div class="cards">
% for device in devices:
<article class="card" data-form="{{device.label}}">
<h3><a href="/device/{{device.name}}">{{device.label}}</a> <small>{{device.where}}</small></h3>
<dl>
% include("values.tpl", device=device)
</dl>
% include("outputs.tpl", device=device, back="/")
</article>
% end
</div>
% if more:
<details id="more">
<summary>{{t("More devices ({count})", count=len(more))}}</summary>
<ul class="card">
% for name, called in more:
<li data-form="{{name}} {{called}}"><a href="/device/{{name}}">{{called}}</a> <small>{{name}}</small></li>
% end
</ul>
</details>
% end
</section>
<section aria-labelledby="servers" class="servers">
% if scenarios:
<h2 id="scenarios">{{t("Scenarios")}}</h2>
<ul class="card" aria-labelledby="scenarios">
% for row in scenarios:
<li class="server" data-key="{{row.key}}" data-state="{{row.state}}">
<h3>{{row.label}} <b class="badge" data-cell="badge">{{row.cells["badge"]}}</b></h3>
<p data-cell="story">{{row.cells["story"]}}</p>
<p class="facts" data-cell="facts">{{row.cells["facts"]}}</p>
</li>
% end
</ul>
% end
<h2 id="servers">{{t("Servers")}}</h2>
% if not servers:
<p class="empty">{{t("The broker has told of no server yet.")}}</p>
% else:
<ul class="card">
% for row in servers:
<li class="server" data-key="{{row.key}}" data-state="{{row.state}}">
<h3>{{row.label}} <small>{{row.where}}</small> <b class="badge" data-cell="badge">{{row.cells["badge"]}}</b></h3>
<p data-cell="story">{{row.cells["story"]}}</p>
<p class="trouble" data-cell="trouble">{{row.cells["trouble"]}}</p>
<p class="facts" data-cell="facts">{{row.cells["facts"]}}</p>
</li>
% end
</ul>
% end
<h2 id="lately-title">{{t("Lately")}}</h2>
<ol class="card" id="lately" aria-labelledby="lately-title">
% for event in events:
<li><span class="when">{{event.cells["when"]}}</span> <b>{{event.label}}</b> {{event.cells["what"]}}</li>
% end
% if not events:
<li class="empty">{{t("Nothing has happened.")}}</li>
% end
</ol>
</section>
<section class="others">
<details id="rest">
<summary>{{t("Everything else on the bus ({count})", count=len(others))}}</summary>
<dl class="card">
% for row in others:
<div class="other" data-key="{{row.key}}" data-state="{{row.state}}">
<dt>{{row.label}}</dt>
<dd><code data-cell="value">{{row.cells["value"]}}</code> <span class="meta"><span data-age="{{"" if row.age is None else f"{row.age:.1f}"}}">{{ago(row.age, t) if row.age is not None else ""}}</span></span></dd>
</div>
% end
</dl>
</details>
<p data-key="+" data-state="ok"><span data-cell="value">{{t("{count} more are not shown; all are in /api/v1/tree.", count=left_out) if left_out else ""}}</span></p>
</section>
</main>

% rebase("layout.tpl", title=hostname)
% def age(row):
%     return "" if row.age is None else f"{row.age:.1f}"
% end
% def ago(row):
%     if row.age is None:
%         return "at an unknown time"
%     end
%     return "now" if row.age < 2 else f"{duration(row.age)} ago"
% end
<main id="main" data-version="{{data_version}}" data-bus="{{bus}}">
<section aria-labelledby="values" class="values">
<h2 id="values">Values</h2>
% if not devices:
<p class="empty">There is no value on the bus yet.</p>
% end
<div class="cards">
% for server, group in devices.items():
% host, _, service = server.partition(".")
% for device, rows in group.items():
<article class="card">
<h3>{{device}} <small>{{service}} on {{host}}</small></h3>
<dl>
% for row in rows:
<div class="reading" data-key="{{row.key}}" data-state="{{row.state}}">
<dt>{{row.label}}</dt>
<dd><span class="value"><span data-cell="value">{{row.cells["value"]}}</span> <span class="unit" data-cell="unit">{{row.cells["unit"]}}</span></span>
<span class="meta"><b class="badge" data-cell="badge">{{row.cells["badge"]}}</b> <span data-age="{{age(row)}}">{{ago(row)}}</span></span>
<span class="note" data-cell="note">{{row.cells["note"]}}</span></dd>
</div>
% end
</dl>
</article>
% end
% end
</div>
</section>
<section aria-labelledby="servers" class="servers">
% if scenarios:
<h2 id="scenarios">Scenarios</h2>
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
<h2 id="servers">Servers</h2>
% if not servers:
<p class="empty">The broker has told of no server yet.</p>
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
<h2 id="lately-title">Lately</h2>
<ol class="card" id="lately" aria-labelledby="lately-title">
% for event in events:
<li><span class="when">{{event.cells["when"]}}</span> <b>{{event.label}}</b> {{event.cells["what"]}}</li>
% end
% if not events:
<li class="empty">Nothing has happened.</li>
% end
</ol>
</section>
<section class="others">
<details id="rest">
<summary>Everything else on the bus ({{len(others)}})</summary>
<dl class="card">
% for row in others:
<div class="other" data-key="{{row.key}}" data-state="{{row.state}}">
<dt>{{row.label}}</dt>
<dd><code data-cell="value">{{row.cells["value"]}}</code> <span class="meta"><span data-age="{{age(row)}}">{{ago(row) if row.age is not None else ""}}</span></span></dd>
</div>
% end
</dl>
</details>
<p data-key="+" data-state="ok"><span data-cell="value">{{f"{left_out} more are not shown; all are in /api/v1/tree." if left_out else ""}}</span></p>
</section>
</main>

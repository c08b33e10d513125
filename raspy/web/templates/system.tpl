% rebase("layout.tpl")
% def facts(rows):
<dl class="card">
% for number, (called, shown, problem) in enumerate(rows):
<div class="reading"><dt>{{called}}</dt><dd>{{shown}}
% if problem:
<span class="trouble">{{problem}}</span>
% end
</dd></div>
% end
</dl>
% end
<main id="main" data-live="{{live}}" data-version="{{data_version}}" data-bus="{{bus}}">
<h1>{{title}}</h1>
<ul class="buttons links">
<li><a href="/system/backup">{{t("Back up and restore")}}</a></li>
<li><a href="/system/access">{{t("Password, sessions, tokens")}}</a></li>
% if appliance:
<li><a href="/system/power">{{t("Restart and reset")}}</a></li>
% end
</ul>
% if boot_problems:
<section aria-labelledby="boot" class="alarms">
<h2 id="boot">{{t("Found at the start of the machine")}}</h2>
% for each in boot_problems:
<p class="card trouble">{{each}}</p>
% end
</section>
% end
<section aria-labelledby="servers" class="servers">
<h2 id="servers">{{t("Servers")}}</h2>
% if not servers:
<p class="empty">{{t("The broker has told of no server yet.")}}</p>
% else:
<ul class="card">
% for each in servers:
% row, name = each["row"], each["name"]
<li class="server" data-key="{{row.key}}" data-state="{{row.state}}" data-form="{{each["there"]}}">
<h3>{{row.label}} <small>{{row.where}}</small> <b class="badge" data-cell="badge">{{row.cells["badge"]}}</b></h3>
<p data-cell="story">{{row.cells["story"]}}</p>
<p class="trouble" data-cell="trouble">{{row.cells["trouble"]}}</p>
<p class="facts" data-cell="facts">{{row.cells["facts"]}}</p>
% if each["there"]:
<form class="buttons" method="post" action="/system/restart">
<input type="hidden" name="csrf" value="{{visit.csrf}}">
<button id="restart-{{name}}" name="server" value="{{name}}" aria-label="{{t("Restart {server}", server=name)}}" aria-describedby="what-{{name}}">{{t("Restart")}}</button>
<a href="/system/log/{{name}}" aria-label="{{t("Log of {server}", server=name)}}">{{t("Log")}}</a>
<span class="meta" id="what-{{name}}">{{each["what"]}}</span>
</form>
% end
</li>
% end
</ul>
% end
</section>
<section aria-labelledby="clocks">
<h2 id="clocks">{{t("Clocks")}}</h2>
% facts(clocks)
</section>
<section aria-labelledby="disk">
<h2 id="disk">{{t("Disk")}}</h2>
% facts(disk)
</section>
<section aria-labelledby="machine">
<h2 id="machine">{{t("Machine")}}</h2>
% facts(board)
</section>
<section aria-labelledby="versions">
<h2 id="versions">{{t("Versions")}}</h2>
<dl class="card">
% for called, shown in versions:
<div class="reading"><dt>{{called}}</dt><dd>{{shown}}</dd></div>
% end
</dl>
</section>
</main>

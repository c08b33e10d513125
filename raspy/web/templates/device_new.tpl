% rebase("layout.tpl")
<main id="main" class="narrow">
<h1>{{title}}</h1>
% if kinds:
<p>{{t("What is it to be?")}}</p>
<ul class="card">
% for server, oid, doc in kinds:
<li class="server"><a href="/device/new?server={{quote(server)}}&amp;oid={{quote(oid)}}">{{doc or oid}}</a> <small>{{oid}} · {{server}}</small></li>
% end
</ul>
% else:
<p class="empty">{{t("No server here makes devices: they find theirs by themselves.")}}</p>
% end
</main>

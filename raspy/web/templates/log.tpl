% rebase("layout.tpl")
<main id="main">
<h1>{{title}}</h1>
<p class="buttons"><a href="/system">{{t("Back to the system")}}</a></p>
% if not records:
<p class="empty">{{t("It has logged nothing since its start.")}}</p>
% else:
<ol class="card log" aria-label="{{t("The newest first")}}">
% for record in records:
<li data-level="{{record["level"]}}"><span class="when">{{record["when"]}}</span> <b class="badge">{{record["level"]}}</b> {{record["text"]}} <small>{{record["name"]}}</small></li>
% end
</ol>
% end
<p class="meta">{{t("These are the last records since the start of this process. All of them, on the machine itself:")}} <code>journalctl -u {{unit}}</code></p>
</main>

% rebase("layout.tpl")
<main id="main">
<h1>{{title}}</h1>
% for problem in problems:
<p class="trouble">{{t("Not known: {problem}", problem=problem)}}</p>
% end
% if named or problems:
<form class="card mode" method="post" action="/mode">
<input type="hidden" name="csrf" value="{{visit.csrf}}">
<input type="hidden" name="output" value="{{every}}">
<p><label for="time">{{t("For")}}</label>
<select id="time" name="time">
% for sent, called in times:
<option value="{{sent}}">{{t(called)}}</option>
% end
</select></p>
<dl>
% for name, does in named.items():
<div class="reading"><dt>{{"; ".join(does)}}</dt><dd><button name="mode" value="{{name}}">{{name}}</button></dd></div>
% end
<div class="reading"><dt>{{t("all outputs: as they are told by scenarios and jobs")}}</dt><dd><button name="mode" value="auto">auto</button></dd></div>
</dl>
</form>
% else:
<p>{{t("No output has modes of its own. The setting modes of an output declares them, as modes = \"feeding: off 10m\".")}}</p>
% end
</main>

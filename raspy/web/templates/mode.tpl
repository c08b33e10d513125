% rebase("layout.tpl")
<main id="main">
<h1>{{title}} <small>{{output}}</small></h1>
<p class="meta">{{t("As of {time}.", time=clock(now))}} <a href="{{visit.path}}">{{t("Load it anew")}}</a></p>
<dl class="card">
% for word, fact in facts.items():
% if fact:
<div class="reading"><dt>{{t(word)}}</dt><dd>{{fact}}</dd></div>
% end
% end
</dl>
<form class="card mode" method="post" action="/mode">
<input type="hidden" name="csrf" value="{{visit.csrf}}">
<input type="hidden" name="output" value="{{output}}">
<fieldset>
<legend>{{t("Mode")}}</legend>
% for name, what in modes.items():
<label><input type="radio" name="mode" value="{{name}}" required{{" checked" if name == facts["mode"] else ""}}> {{name}} <small>{{t(what) if what != name else ""}}</small></label>
% end
</fieldset>
<p><label for="time">{{t("For")}}</label>
<select id="time" name="time">
% for sent, called in times:
<option value="{{sent}}">{{t(called)}}</option>
% end
</select></p>
<p class="meta">{{t("A mode stands above every scenario and job, and ends by itself. The rules of the output hold all the same.")}}</p>
<p><button>{{t("Set the mode")}}</button></p>
</form>
</main>

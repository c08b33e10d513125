% rebase("layout.tpl")
<main id="main">
<p><a href="/scenarios">{{t("All scenarios")}}</a></p>
<h1>{{title}}</h1>
<form class="card editor" method="post" action="/scenarios/import">
<input type="hidden" name="csrf" value="{{visit.csrf}}">
% if problem:
<p class="trouble" id="fault" role="alert" tabindex="-1" autofocus>{{problem}}</p>
% end
% if found:
% for line in about.values():
<p>{{line}}</p>
% end
<h2 id="found">{{t("In this document")}}</h2>
<ul aria-labelledby="found">
% for name, mine, code in found:
<li><details><summary>{{name}} <b class="badge">{{t("replaces yours") if mine else t("new")}}</b></summary>
<pre class="output" tabindex="0" role="region" aria-label="{{t("Code of {name}", name=name)}}">{{code}}</pre></details></li>
% end
</ul>
% if there:
<p><label><input type="checkbox" name="replace" value="replace"{{" checked" if replace else ""}}> {{t("Replace what there is already: {names}", names=", ".join(there))}}</label></p>
% end
<p class="meta">{{t("A scenario can do whatever you can. Look at its code before you enable it; none is active when it comes.")}}</p>
% end
<p><label for="document">{{t("The document, as it was exported")}}</label>
<textarea id="document" name="document" rows="8" spellcheck="false" autocomplete="off" autocapitalize="off" required{{!' aria-describedby="fault"' if problem else ""}}>
{{text}}</textarea></p>
<p class="file" hidden><label for="file">{{t("Or a file of it")}}</label>
<input id="file" type="file" accept=".json,application/json" data-fills="document"></p>
<p class="buttons"><button name="do" value="look">{{t("Show what is in it")}}</button>
% if found:
<button name="do" value="import">{{t("Import")}}</button>
% end
</p>
</form>
</main>

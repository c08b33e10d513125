% rebase("layout.tpl")
% fault = state.fault
% def at(field):
%     return ' aria-invalid="true" aria-describedby="fault" autofocus' if fault and fault.field == field else ""
% end
% def trouble(field):
% if fault and fault.field == field:
<p class="trouble" id="fault" role="alert">{{fault.reason}}</p>
% end
% end
<main id="main">
<p><a href="{{back}}">{{t("Back, without a change")}}</a></p>
<h1>{{title}}</h1>
% if examples:
<p>{{t("Start from an example:")}}</p>
<ul class="buttons">
% for name, called in examples.items():
<li><a class="button" href="/scenarios/new?example={{name}}">{{called or name}}</a></li>
% end
</ul>
% end
% if about:
<p class="card">{{about}}</p>
% end
<p id="draft" class="card" hidden>{{t("What you typed here last was not saved.")}} <button type="button">{{t("Bring it back")}}</button></p>
<form class="editor" method="post" action="{{action}}"{{!' data-typed="yes"' if state.typed else ""}}>
<input type="hidden" name="csrf" value="{{visit.csrf}}">
<input type="hidden" name="was" value="{{state.was}}">
% if fault and not fault.field:
<p class="trouble" id="fault" role="alert" tabindex="-1" autofocus>{{fault.reason}}</p>
% end
% if state.conflict:
<p class="meta">{{t("What you typed is below, and is not saved.")}} <a href="{{action}}" target="_blank">{{t("Look at what there is now")}}</a></p>
% end
% if draft.unknown:
<p class="trouble">{{t("Not understood, and left out when this is saved: {names}", names=clean(", ".join(draft.unknown), 300))}}</p>
% end
<div class="card">
% if not existing:
<p><label for="name">{{t("Name")}}</label>
<input id="name" name="name" value="{{draft.name}}" required maxlength="63" pattern="[a-z0-9_\-]+" title="{{t("a to z, 0 to 9, _ and -")}}" autocomplete="off" autocapitalize="off" spellcheck="false"{{!at("name")}}></p>
% trouble("name")
% end
<p><label for="label">{{t("Label")}}</label>
<input id="label" name="label" value="{{draft.label}}" maxlength="200" autocomplete="off"{{!at("label")}}></p>
% trouble("label")
% if fault and fault.field == "code" or marked:
<div class="problem" id="problem" role="alert" tabindex="-1" autofocus>
<p class="{{"trouble" if fault else "meta"}}" id="fault">{{fault.reason if fault else state.said}}</p>
% if marked:
<pre class="marked"><code>\\
% for number, line in marked:
% if number == state.line:
<mark>{{number}}  {{line}}</mark>
% else:
{{number}}  {{line}}
% end
% end
</code></pre>
<p><a href="#code" data-line="{{state.line}}">{{t("To line {line}", line=state.line)}}</a></p>
% end
</div>
% elif state.said and not fault:
<p class="good" id="problem" role="status" tabindex="-1" autofocus>{{state.said}}</p>
% end
<p><label for="code">{{t("Code")}}</label> <small id="keys" hidden>{{t("Tab indents. Escape, then Tab leaves this field.")}}</small></p>
<div class="code"><textarea id="code" name="code" rows="20" wrap="off" spellcheck="false" autocomplete="off" autocapitalize="off" autocorrect="off" data-fault="{{state.line or ""}}"{{!' aria-invalid="true" aria-describedby="fault"' if fault and fault.field == "code" else ""}}>
{{draft.code}}</textarea></div>
<p class="buttons"><button name="do" value="check" formnovalidate>{{t("Check")}}</button>
<button name="do" value="save">{{t("Save")}}</button>
% if state.conflict:
<button name="do" value="anyway">{{t("Save all the same")}}</button>
% end
</p>
</div>
<section class="card">
<h2>{{t("When it runs")}}</h2>
<p><label><input type="checkbox" name="active" value="yes"{{" checked" if draft.active else ""}}> {{t("It acts by itself (else by hand only)")}}</label></p>
<p><label><input type="checkbox" name="startup" value="yes"{{" checked" if draft.startup else ""}}> {{t("It runs in the background, from the start on")}}</label></p>
<fieldset>
<legend>{{t("At these times")}}</legend>
<p class="meta">{{t("As 0 8 * * *, @sunset-00:30, every 10m")}}</p>
% for i in range(len(draft.schedule) + spare["schedule"]):
<p class="row"><input id="schedule-{{i}}" name="schedule" value="{{draft.schedule[i] if i < len(draft.schedule) else ""}}" maxlength="200" autocomplete="off" autocapitalize="off" spellcheck="false" aria-label="{{t("Time {number}", number=i + 1)}}"{{!at(f"schedule-{i}")}}>
% if i < len(draft.schedule):
<button name="do" value="drop schedule-{{i}}" formnovalidate aria-label="{{t("Remove time {number}", number=i + 1)}}">{{t("Remove")}}</button>
% end
</p>
% trouble(f"schedule-{i}")
% end
<p><button name="do" value="more schedule" formnovalidate>{{t("More rows")}}</button></p>
</fieldset>
<p><label for="misfire">{{t("Times that passed while RasPy was off")}}</label>
<select id="misfire" name="misfire"{{!at("misfire")}}>
% for word, called in zip(misfires, (t("it runs once for all of them"), t("it does not run"), t("it runs for each of them"))):
<option value="{{word}}"{{" selected" if word == draft.misfire else ""}}>{{called}}</option>
% end
% if draft.misfire not in misfires:
<option selected>{{draft.misfire}}</option>
% end
</select></p>
% trouble("misfire")
</section>
<fieldset class="card">
<legend>{{t("Entries: the values that it knows, each under a name of yours")}}</legend>
<datalist id="keys-known">
% for key in keys:
<option value="{{key}}">
% end
</datalist>
% heads = {"name": t("Name"), "key": t("Value of the tree"), "fire": t("Fires it"), "value": t("Threshold"), "hysteresis": t("Back by"), "hold": t("For (s)")}
% for i in range(len(draft.entries) + spare["entry"]):
% entry = draft.entries[i] if i < len(draft.entries) else ("", "", "", "", "", "")
<div class="row entry" role="group" aria-label="{{t("Entry {number}", number=i + 1)}}">
<p><label for="entry_name-{{i}}">{{heads["name"]}}</label>
<input id="entry_name-{{i}}" name="entry_name" value="{{entry[0]}}" maxlength="63" autocomplete="off" autocapitalize="off" spellcheck="false"{{!at(f"entry_name-{i}")}}></p>
% trouble(f"entry_name-{i}")
<p><label for="entry_key-{{i}}">{{heads["key"]}}</label>
<input id="entry_key-{{i}}" name="entry_key" value="{{entry[1]}}" maxlength="500" list="keys-known" autocomplete="off" autocapitalize="off" spellcheck="false"{{!at(f"entry_key-{i}")}}></p>
% trouble(f"entry_key-{i}")
<p><label for="entry_fire-{{i}}">{{heads["fire"]}}</label>
<select id="entry_fire-{{i}}" name="entry_fire"{{!at(f"entry_fire-{i}")}}>
% for word, called in zip(fires, (t("no"), t("when it changes"), t("when it is above"), t("when it is below"))):
<option value="{{word}}"{{" selected" if word == entry[2] else ""}}>{{called}}</option>
% end
% if entry[2] not in fires:
<option selected>{{entry[2]}}</option>
% end
</select></p>
% for field, column in (("value", 3), ("hysteresis", 4), ("hold", 5)):
<p class="short"><label for="entry_{{field}}-{{i}}">{{heads[field]}}</label>
<input id="entry_{{field}}-{{i}}" name="entry_{{field}}" value="{{entry[column]}}" maxlength="60" inputmode="decimal" autocomplete="off"{{!at(f"entry_{field}-{i}")}}></p>
% trouble(f"entry_{field}-{i}")
% end
% if i < len(draft.entries):
<p><button name="do" value="drop entry-{{i}}" formnovalidate aria-label="{{t("Remove entry {name}", name=entry[0])}}">{{t("Remove")}}</button></p>
% end
</div>
% end
<p><button name="do" value="more entry" formnovalidate>{{t("More rows")}}</button></p>
</fieldset>
<fieldset class="card">
<legend>{{t("Settings: what the code finds as settings")}}</legend>
% for i in range(len(draft.settings) + spare["setting"]):
% name, value = draft.settings[i] if i < len(draft.settings) else ("", "")
<div class="row" role="group" aria-label="{{t("Setting {number}", number=i + 1)}}">
<p><label for="setting_name-{{i}}">{{t("Name")}}</label>
<input id="setting_name-{{i}}" name="setting_name" value="{{name}}" autocomplete="off" autocapitalize="off" spellcheck="false"{{!at(f"setting_name-{i}")}}></p>
% trouble(f"setting_name-{i}")
<p><label for="setting_value-{{i}}">{{t("What it is")}}</label>
<input id="setting_value-{{i}}" name="setting_value" value="{{value}}" autocomplete="off" autocapitalize="off" spellcheck="false"></p>
% if i < len(draft.settings):
<p><button name="do" value="drop setting-{{i}}" formnovalidate aria-label="{{t("Remove setting {name}", name=name)}}">{{t("Remove")}}</button></p>
% end
</div>
% end
<p><button name="do" value="more setting" formnovalidate>{{t("More rows")}}</button></p>
</fieldset>
<details class="card" id="limits"{{" open" if any(draft.limits.values()) or draft.stop_grace or fault and fault.field.startswith(("limit_", "stop_")) else ""}}>
<summary>{{t("Limits")}}</summary>
<p class="meta">{{t("Empty: as it is set for all. 0: no limit, for processor and time.")}}</p>
% called = {"memory": t("Memory, in MB"), "cpu": t("Processor, in seconds of any minute"), "wall": t("Time from start to end, in s"), "output": t("Output, in bytes of any minute")}
% for name, default in limits:
<p><label for="limit_{{name}}">{{called[name]}}</label>
<input id="limit_{{name}}" name="limit_{{name}}" value="{{draft.limits[name]}}" placeholder="{{default}}" maxlength="60" inputmode="decimal" autocomplete="off"{{!at(f"limit_{name}")}}></p>
% trouble(f"limit_{name}")
% end
<p><label for="stop_grace">{{t("Seconds from asking it to stop to killing it")}}</label>
<input id="stop_grace" name="stop_grace" value="{{draft.stop_grace}}" placeholder="{{grace}}" maxlength="60" inputmode="decimal" autocomplete="off"{{!at("stop_grace")}}></p>
% trouble("stop_grace")
</details>
<p class="buttons"><button name="do" value="check" formnovalidate>{{t("Check")}}</button>
<button name="do" value="save">{{t("Save")}}</button></p>
</form>
</main>

% rebase("layout.tpl")
% def at(field):
%     return ' aria-invalid="true" aria-describedby="fault" autofocus' if fault and fault.field == field else ""
% end
% def trouble(field):
% if fault and fault.field == field:
<p class="trouble" id="fault" role="alert">{{fault.reason}}</p>
% end
% end
<main id="main" class="narrow">
<p><a href="/schedule">{{t("Back, without a change")}}</a></p>
<h1>{{title}}</h1>
<form class="card" method="post" action="{{f"/schedule/{name}/edit" if name else "/schedule/new"}}">
<input type="hidden" name="csrf" value="{{visit.csrf}}">
% if fault and not fault.field:
<p class="trouble" id="fault" role="alert" tabindex="-1" autofocus>{{fault.reason}}</p>
% end
% if not name:
<p><label for="name">{{t("Name")}}</label>
<input id="name" name="name" value="{{texts["name"]}}" required maxlength="63" pattern="[a-z0-9_\-]+" title="{{t("a to z, 0 to 9, _ and -")}}" autocomplete="off" autocapitalize="off" spellcheck="false"{{!at("name")}}></p>
% trouble("name")
% end
<p><label for="label">{{t("Label")}}</label>
<input id="label" name="label" value="{{texts["label"]}}" maxlength="100" autocomplete="off"{{!at("label")}}></p>
% trouble("label")
<p><label for="when">{{t("When")}}</label>
<input id="when" name="when" value="{{texts["when"]}}" required maxlength="200" autocomplete="off" autocapitalize="off" spellcheck="false"{{!at("when") or ' aria-describedby="forms"'}}></p>
% trouble("when")
<p class="meta" id="forms">{{t("0 8 * * mon-fri (minute, hour, day, month, weekday) · @sunset-00:30 · every 10m · at 2026-12-01T08:00")}}</p>
% if times:
<div{{!' id="preview" role="status" tabindex="-1" autofocus' if looked else ""}}>
<p>{{t("The next times, as they are in {zone}:", zone=zone) if zone else t("The next times:")}}</p>
<ol class="times">
% for time in times:
<li>{{time}}</li>
% end
</ol>
</div>
% elif looked:
<p id="preview" role="status" tabindex="-1" autofocus>{{t("That is never again.")}}</p>
% end
<p><button name="do" value="check" formnovalidate>{{t("Show the next times")}}</button></p>
<p><label><input type="checkbox" name="active" value="yes"{{" checked" if draft.active else ""}}> {{t("It acts at its times (else by hand only)")}}</label></p>
<fieldset>
<legend>{{t("What it does")}}</legend>
<p><label for="scenario">{{t("Run a scenario")}}</label>
<select id="scenario" name="scenario"{{!at("scenario")}}>
<option value="">{{t("none")}}</option>
% for one in scenarios:
<option{{" selected" if one == texts["scenario"] else ""}}>{{one}}</option>
% end
% if texts["scenario"] and texts["scenario"] not in scenarios:
<option selected>{{texts["scenario"]}}</option>
% end
</select></p>
% trouble("scenario")
<p><label for="device">{{t("Command a device")}}</label>
<input id="device" name="device" value="{{texts["device"]}}" maxlength="255" list="devices" autocomplete="off" autocapitalize="off" spellcheck="false"{{!at("device")}}></p>
% trouble("device")
<p><label for="command">{{t("Its command")}}</label>
<input id="command" name="command" value="{{texts["command"]}}" maxlength="63" list="commands" autocomplete="off" autocapitalize="off" spellcheck="false"{{!at("command")}}></p>
% trouble("command")
<p><label for="value">{{t("With the value")}}</label>
<input id="value" name="value" value="{{texts["value"]}}" placeholder="true" autocomplete="off" autocapitalize="off" spellcheck="false"{{!at("value")}}></p>
% trouble("value")
<p><label for="seconds">{{t("For so many seconds")}}</label>
<input id="seconds" name="seconds" value="{{texts["seconds"]}}" maxlength="60" inputmode="decimal" autocomplete="off"{{!at("seconds")}}></p>
% trouble("seconds")
<p class="meta">{{t("With neither it only tells that it is time: an event, which alarms and programs can follow.")}}</p>
<datalist id="devices">
% for one in devices:
<option value="{{one}}">
% end
</datalist>
<datalist id="commands">
% for one in commands:
<option value="{{one}}">
% end
</datalist>
</fieldset>
<details{{" open" if texts["grace"] or texts["jitter"] or draft.trusted or texts["misfire"] != "once" or fault and fault.field in ("grace", "jitter", "misfire") else ""}}>
<summary>{{t("Missed times and clocks")}}</summary>
<p><label for="misfire">{{t("Times that passed while RasPy was off")}}</label>
<select id="misfire" name="misfire"{{!at("misfire")}}>
% for word, called in zip(misfires, (t("it runs once for all of them"), t("it does not run"), t("it runs for each of them"))):
<option value="{{word}}"{{" selected" if word == texts["misfire"] else ""}}>{{called}}</option>
% end
% if texts["misfire"] not in misfires:
<option selected>{{texts["misfire"]}}</option>
% end
</select></p>
% trouble("misfire")
<p><label for="grace">{{t("Up to so many seconds late is in time")}}</label>
<input id="grace" name="grace" value="{{texts["grace"]}}" placeholder="{{grace}}" maxlength="60" inputmode="decimal" autocomplete="off"{{!at("grace")}}></p>
% trouble("grace")
<p><label for="jitter">{{t("Put off by up to so many seconds")}}</label>
<input id="jitter" name="jitter" value="{{texts["jitter"]}}" placeholder="{{jitter}}" maxlength="60" inputmode="decimal" autocomplete="off"{{!at("jitter")}}></p>
% trouble("jitter")
<p><label><input type="checkbox" name="trusted" value="yes"{{" checked" if draft.trusted else ""}}> {{t("Only while the clock can be trusted")}}</label></p>
</details>
<p class="buttons"><button name="do" value="save">{{t("Save")}}</button></p>
</form>
</main>

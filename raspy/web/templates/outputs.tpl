% for output, called, level in device.outputs:
<form class="buttons" method="post" action="/mode">
<input type="hidden" name="csrf" value="{{visit.csrf}}">
<input type="hidden" name="output" value="{{output}}">
<input type="hidden" name="back" value="{{back}}">
% for mode, word in (("auto", t("auto")), ("on", t("on")), ("off", t("off"))):
<button id="{{mode}}:{{output}}" name="mode" value="{{mode}}" aria-label="{{called}}: {{word}}">{{word}}</button>
% end
<a href="/mode/{{output}}" aria-label="{{t("{name}: mode and time", name=called)}}">{{t("More…")}}</a>
</form>
% if level is not None:
% now_at = level.cells["value"] if level.state == "ok" else ""
<form class="buttons level" method="post" action="/level">
<input type="hidden" name="csrf" value="{{visit.csrf}}">
<input type="hidden" name="output" value="{{output}}">
<input type="hidden" name="back" value="{{back}}">
<label for="level:{{output}}">{{t("Level")}} <small class="unit">%</small></label>
<input id="level:{{output}}" name="level" type="number" min="0" max="100" step="any" inputmode="decimal" required value="{{now_at}}">
<button id="set:{{output}}" aria-label="{{t("{name}: set the level for an hour", name=called)}}">{{t("Set for an hour")}}</button>
</form>
% end
% end

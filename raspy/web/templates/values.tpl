% for row in device.rows:
% spark = sparks.get(row.key)
<div class="reading" data-key="{{row.key}}" data-state="{{row.state}}">
<dt>{{row.label}}</dt>
<dd><span class="value"><span data-cell="value">{{row.cells["value"]}}</span> <span class="unit" data-cell="unit">{{row.cells["unit"]}}</span></span>
% if spark:
<svg class="spark" viewBox="0 0 96 24" width="96" height="24" role="img" aria-label="{{t("the last 24 h: {low} to {high}", low=f"{spark.low:.4g}", high=f"{spark.high:.4g}")}}"><path d="{{spark.path}}" fill="none" stroke="currentColor"/></svg>
% end
<span class="meta"><b class="badge" data-cell="badge">{{row.cells["badge"]}}</b> <span data-age="{{"" if row.age is None else f"{row.age:.1f}"}}">{{ago(row.age, t)}}</span></span>
<span class="note" data-cell="note">{{row.cells["note"]}}</span></dd>
</div>
% end

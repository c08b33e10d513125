% rebase("layout.tpl")
<main id="main" class="narrow" data-then="{{then}}">
<h1>{{title}}</h1>
<p class="buttons"><a href="/system">{{t("Back to the system")}}</a></p>
% if running or others:
<section class="card" aria-labelledby="goes-on">
% if job is None:
<h2 id="goes-on">{{t("A backup or restore is under way")}}</h2>
% elif job.kind == "backup":
<h2 id="goes-on">{{t("The backup is being made")}}</h2>
% elif job.kind == "check":
<h2 id="goes-on">{{t("The file is being checked")}}</h2>
% else:
<h2 id="goes-on">{{t("Everything is being restored")}}</h2>
<p>{{t("At the end all servers restart; outputs go into their safe state meanwhile. The page restarts too, and comes back by itself. Then the password is that of the backup.")}}</p>
% end
<p role="status">{{progress}}</p>
<p class="buttons"><a href="/system/backup">{{t("Look now")}}</a></p>
</section>
% else:
% if problem:
<p class="trouble card" role="alert">{{problem}}</p>
% end
% if last:
<p class="{{"meta" if last["good"] else "trouble"}}">{{t("The restore of {when} is done.", when=last["when"]) if last["good"] else t("The restore of {when}: {reason}", when=last["when"], reason=last["reason"])}}</p>
% for name, why in last["left"].items():
<p class="trouble">{{t("{server} was left out: {reason}", server=name, reason=why)}}</p>
% end
% end
% if job is not None and content is not None:
<section class="card" aria-labelledby="done">
% if job.kind == "backup":
<h2 id="done">{{t("The backup is ready")}}</h2>
% elif job.kind == "check":
<h2 id="done">{{t("The file is good")}}</h2>
% else:
<h2 id="done">{{t("Everything is restored")}}</h2>
% end
<dl>
% for called, shown in content:
<div class="reading"><dt>{{called}}</dt><dd>{{shown}}</dd></div>
% end
</dl>
% for name, why in left.items():
<p class="trouble">{{t("{server} is not in it: {reason}", server=name, reason=why) if job.kind == "backup" else t("{server} was left out: {reason}", server=name, reason=why)}}</p>
% end
% if job.kind == "backup":
<p class="meta">{{t("It holds passwords and keys: keep it as safe as those. It is kept here for 15 min.")}}</p>
<p class="buttons"><a class="button" href="/system/backup/file/{{job.id}}" download>{{t("Download, {size}", size=size)}}</a></p>
% elif job.kind == "check":
<p>{{t("All that these servers have now is replaced by what is in the file, also the password of this page. They restart; outputs go into their safe state meanwhile.")}}</p>
<form method="post" action="/system/backup/restore">
<input type="hidden" name="csrf" value="{{visit.csrf}}">
<input type="hidden" name="id" value="{{job.id}}">
<p><label><input type="checkbox" name="partial" value="1"> {{t("Leave out servers that do not run")}}</label></p>
<p class="buttons"><button class="danger">{{t("Replace everything by this backup")}}</button></p>
</form>
<form class="buttons" method="post" action="/system/backup/discard">
<input type="hidden" name="csrf" value="{{visit.csrf}}">
<button name="id" value="{{job.id}}">{{t("Do nothing")}}</button>
</form>
% end
</section>
% end
<section aria-labelledby="back-up">
<h2 id="back-up">{{t("Back up")}}</h2>
<form class="card" method="post" action="/system/backup/make">
<p>{{t("One file with everything: devices, settings, scenarios, cron jobs, variables, history and the password. All goes on meanwhile.")}}</p>
<input type="hidden" name="csrf" value="{{visit.csrf}}">
<p><label><input type="checkbox" name="partial" value="1"> {{t("Leave out servers that do not run")}}</label></p>
<p class="buttons"><button>{{t("Make a backup")}}</button></p>
</form>
</section>
<section aria-labelledby="restore">
<h2 id="restore">{{t("Restore")}}</h2>
<form class="card" method="post" action="/system/backup/upload" enctype="multipart/form-data">
<p>{{t("The file is checked first; you are asked before anything is replaced.")}}</p>
<input type="hidden" name="csrf" value="{{visit.csrf}}">
<p><label for="file">{{t("A backup of RasPy")}}</label>
<input id="file" name="file" type="file" required></p>
<p class="buttons"><button>{{t("Send and check")}}</button></p>
</form>
</section>
% end
</main>

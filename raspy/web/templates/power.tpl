% rebase("layout.tpl")
<main id="main" class="narrow">
<h1>{{title}}</h1>
<p class="buttons"><a href="/system">{{t("Back to the system")}}</a></p>
<section aria-labelledby="power">
<h2 id="power">{{t("Restart and power")}}</h2>
<p id="what-power">{{t("All outputs go into their safe state, and stay as the wires leave them while the machine is off.")}}</p>
<div class="buttons">
<form method="post" action="/system/power/restart">
<input type="hidden" name="csrf" value="{{visit.csrf}}">
<button aria-describedby="what-power">{{t("Restart the machine")}}</button>
</form>
<form method="post" action="/system/power/off">
<input type="hidden" name="csrf" value="{{visit.csrf}}">
<button aria-describedby="what-power">{{t("Switch the machine off")}}</button>
</form>
</div>
</section>
<section aria-labelledby="reset">
<h2 id="reset">{{t("Factory reset")}}</h2>
<p>{{t("Wipes devices, settings, scenarios, jobs, variables, history, alarms, the password and all keys. The system, its updates, its users, ssh and Wi-Fi stay.")}} <a href="/system/backup">{{t("Make a backup first")}}</a></p>
<form class="card" method="post" action="/system/reset">
% if problem:
<p class="trouble" id="problem" role="alert">{{problem}}</p>
% end
<input type="hidden" name="csrf" value="{{visit.csrf}}">
<input type="text" name="username" value="raspy" autocomplete="username" hidden>
<p><label for="words">{{t("Type: {words}", words=words)}}</label>
<input id="words" name="words" required maxlength="40" autocomplete="off" autocapitalize="none"{{!' aria-describedby="problem"' if problem else ""}}></p>
<p><label for="password">{{t("Password")}}</label>
<input id="password" name="password" type="password" required maxlength="256" autocomplete="current-password"></p>
<p><button>{{t("Set everything back")}}</button></p>
</form>
</section>
</main>

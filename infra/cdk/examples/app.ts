import { App } from "aws-cdk-lib";
import { FailoverLock } from "../lib/failover-lock";

const app = new App();
new FailoverLock(app, "FailoverLock", {
  artifact: app.node.getContext("artifact"),
  healthCheckId: app.node.getContext("healthCheckId"),
  notificationEmail: "sre@example.com",
  // Deploy with false first, and with true when the primary is up and its alarm has been OK.
  alarmActionsEnabled: app.node.tryGetContext("primaryIsUp") === "true",
  stack: { tags: { team: "sre" } },
});

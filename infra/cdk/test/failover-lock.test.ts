import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { App, Stack } from "aws-cdk-lib";
import { CfnHealthCheck } from "aws-cdk-lib/aws-route53";
import { parse } from "yaml";
import { FailoverLock, FailoverLockParameters, FailoverLockProps, TEMPLATE } from "../lib/failover-lock";

type Json = { [key: string]: any };

const folder = mkdtempSync(join(tmpdir(), "failover-lock-cdk-"));
after(() => rmSync(folder, { recursive: true }));
const ARTIFACT = join(folder, "failover-lock-arm64.zip");
writeFileSync(ARTIFACT, "code");
const HASH = "5694d08a2e53ffcae0c3103e5ad6f6076abd960eb1f8a56577040bc1028f702b";
const CODE = {
  CodeBucket: { "Fn::Sub": "cdk-hnb659fds-assets-${AWS::AccountId}-us-east-1" },
  CodeKey: `failover-lock-arm64-${HASH}.zip`,
};

/** One value for each parameter: the compiler wants them all. */
const ALL: Required<FailoverLockParameters> = {
  healthCheckId: "233e180f-f023-45a3-954e-415303f21eab",
  guardedTag: "failover=lock",
  secondaryHealthCheckId: "5b2ad0e4-0bb1-4b2f-8ad8-0f7b2c8f3c11",
  secondaryHealthChecks: { a: "b", c: "d" },
  healthyPath: "/health",
  lockedPath: "/locked",
  relockUndone: true,
  notificationEmail: "sre@example.com",
  notificationTopicArn: "arn:aws:sns:us-east-1:123456789012:people",
  runbookUrl: "https://runbooks.example.com/failover-lock",
  notificationKeyArn: "arn:aws:kms:us-east-1:123456789012:key/0f0c1a52-5bd3-4f5e-9f0e-2b1f4e6a7c11",
  alarmActionsEnabled: true,
  alarmMetric: "HealthCheckPercentageHealthy",
  alarmThreshold: 18.1,
  alarmPeriod: 120,
  alarmEvaluationPeriods: 3,
  topicArn: "arn:aws:sns:us-east-1:123456789012:alarms",
  alarmName: "primary",
  architecture: "arm64",
  memorySize: 256,
  lockConcurrency: 4,
  logRetentionDays: 30,
  dryRun: true,
  permissionsBoundaryArn: "arn:aws:iam::123456789012:policy/boundary",
  rolePath: "/service/",
  keyArn: "arn:aws:kms:us-east-1:123456789012:key/7d8c2b5e-3f7a-4f57-8a7e-5b0a9f2d1c34",
  createDashboard: false,
};

/** With what the CDK's validation finds as an error. */
function application(): App {
  const context = { "@aws-cdk/core:validateAgainstDefaultRules": true };
  return new App({ outdir: mkdtempSync(join(folder, "out-")), context });
}

function synthesised(props: Partial<FailoverLockProps> = {}): Json {
  const app = application();
  new FailoverLock(app, "Failover", { artifact: ARTIFACT, ...props });
  return app.synth().getStackByName(props.stack?.stackName ?? "failover").template;
}

/** infra/failover-lock.yaml with CloudFormation's short forms written out. */
function template(): Json {
  const short = (name: string) => (name === "Ref" || name === "Condition" ? name : `Fn::${name}`);
  const names = ["Ref", "Condition", "Sub", "GetAtt", "If", "Not", "And", "Or", "Equals", "Select", "Split", "Join"];
  const customTags = names.flatMap((name) => [
    { tag: `!${name}`, resolve: (text: string) => ({ [short(name)]: text }) },
    { tag: `!${name}`, collection: "seq" as const, resolve: (seq: any) => ({ [short(name)]: seq.toJSON() }) },
  ]);
  return parse(readFileSync(TEMPLATE, "utf8"), { customTags } as any);
}

/** The same with a parameter's value wherever the parameter is referred to. */
function filled(node: any, values: Json): any {
  if (Array.isArray(node)) return node.map((each) => filled(each, values));
  if (node === null || typeof node !== "object") return node;
  if (typeof node.Ref === "string" && node.Ref in values) return values[node.Ref];
  const of = (text: string) => text.replace(/\$\{(\w+)\}/g, (found, name) => values[name] ?? found);
  return Object.fromEntries(
    Object.entries(node).map(([key, value]) => {
      if (key === "Fn::Sub" && typeof value === "string") return [key, of(value)];
      if (key === "Fn::Sub" && Array.isArray(value)) return [key, [of(value[0]), filled(value[1], values)]];
      return [key, filled(value, values)];
    }),
  );
}

/** What two ways of writing the same have in common. */
function plain(node: any): any {
  if (Array.isArray(node)) return node.map(plain);
  if (node === null || typeof node !== "object") return String(node);
  const [index, list] = node["Fn::Select"] ?? [];
  const [separator, text] = list?.["Fn::Split"] ?? [];
  if (typeof text === "string") return text.split(separator)[index];
  return Object.fromEntries(
    Object.entries(node).map(([key, value]) => {
      if (key === "Fn::GetAtt" && Array.isArray(value)) return [key, value.join(".")];
      if (key === "DependsOn") return [key, [value].flat().sort()];
      return [key, plain(value)];
    }),
  );
}

/** For what the functions' versions are published. */
function deployment(made: Json): string {
  return made["Resources"]["LockVersion"].Properties.Description["Fn::Sub"].split(" ")[0];
}

function isTheTemplate(made: Json, values: Json) {
  const { Parameters, ...expected } = template();
  const left = Object.entries(Parameters).filter(([name]) => !(name in values));
  const { BootstrapVersion, ...parameters } = made["Parameters"] ?? {};
  const { CheckBootstrapVersion, ...rules } = made["Rules"];
  assert.ok(BootstrapVersion && CheckBootstrapVersion, "the CDK's own check of its bootstrap");
  const { Metadata: metadata, ...rest } = made;
  const { Metadata, ...others } = filled(expected, values);
  assert.deepEqual(plain(metadata), plain(Metadata));
  assert.deepEqual(plain({ ...rest, Parameters: parameters, Rules: rules }), plain({ ...others, Parameters: Object.fromEntries(left) }));
}

test("without a parameter it is the template", () => {
  const made = synthesised();
  isTheTemplate(made, { ...CODE, Deployment: deployment(made) });
});

test("with every parameter it is the template with their values", () => {
  const made = synthesised(ALL);
  const values: Json = { ...CODE, Deployment: deployment(made) };
  for (const [name, value] of Object.entries({ ...ALL, secondaryHealthChecks: "a=b,c=d" })) {
    values[name.charAt(0).toUpperCase() + name.slice(1)] = String(value);
  }
  assert.deepEqual(Object.keys(values).sort(), Object.keys(template()["Parameters"]).sort());
  isTheTemplate(made, values);
});

test("a parameter of the functions gives them other versions, and the alarm's actions do not", () => {
  const plain = deployment(synthesised());
  assert.match(plain, /^[0-9a-f]{16}$/);
  assert.notEqual(deployment(synthesised({ lockedPath: "/closed" })), plain);
  assert.equal(deployment(synthesised({ alarmActionsEnabled: true })), plain);
});

test("a health check with the tag has the template's alarm", () => {
  const made = synthesised({
    guardedTag: "failover=lock",
    notificationEmail: "sre@example.com",
    healthChecks: { shop: { healthCheckId: "shop-id" }, login: { healthCheckId: "login-id", alarmActionsEnabled: true } },
  });
  const values = {
    HealthCheckId: "shop-id",
    AlarmActionsEnabled: "false",
    AlarmMetric: "HealthCheckStatus",
    AlarmPeriod: "60",
    AlarmEvaluationPeriods: "1",
    AlarmThreshold: "1",
  };
  const expected = plain(filled(template()["Resources"]["Alarm"], values));
  delete expected.Condition;
  expected.Properties.AlarmName = "failover-shop-primary-unhealthy";
  expected.Properties.AlarmDescription = expected.Properties.AlarmDescription["Fn::Sub"].replaceAll("${AWS::StackName}", "failover");
  expected.Properties.AlarmActions = [{ Ref: "Topic" }];
  assert.deepEqual(plain(made["Resources"]["Alarmshop"]), expected);
  assert.equal(made["Resources"]["Alarmlogin"].Properties.ActionsEnabled, true);
});

test("a health check with the tag may be of another stack", () => {
  const app = application();
  const site = new Stack(app, "Site", { env: { region: "us-east-1" } });
  const check = new CfnHealthCheck(site, "Check", { healthCheckConfig: { type: "HTTPS" } });
  new FailoverLock(app, "Failover", {
    artifact: ARTIFACT,
    guardedTag: "failover=lock",
    healthChecks: { shop: { healthCheckId: check.attrHealthCheckId } },
  });
  const made = app.synth().getStackByName("failover").template;
  assert.ok("Fn::ImportValue" in made["Resources"]["Alarmshop"].Properties.Dimensions[0].Value);
});

test("what cannot be deployed is an error with the next step", () => {
  const app = application();
  const site = new Stack(app, "Site", { env: { region: "us-east-1" } });
  const check = new CfnHealthCheck(site, "Check", { healthCheckConfig: { type: "HTTPS" } });
  const fails = (props: Partial<FailoverLockProps>, message: RegExp) => assert.throws(() => synthesised(props), message);
  fails({ healthCheckId: check.attrHealthCheckId }, /healthCheckId is known only at deployment.*guardedTag/);
  fails({ healthChecks: { shop: { healthCheckId: "id" } } }, /healthChecks needs guardedTag/);
  fails({ architecture: "x86_64" }, /failover-lock-arm64.zip.*infra\/package x86_64/);
  fails({ stack: { env: { region: "eu-west-1" } } }, /env.region is eu-west-1.*us-east-1/);
  fails({ stack: { stackName: "a".repeat(55) } }, /at most 53/);
  fails({ artifact: join(folder, "missing.zip") }, /no such file.*missing.zip/);
});

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { FileAssetPackaging, Stack, StackProps, Token, Validations } from "aws-cdk-lib";
import { CfnInclude } from "aws-cdk-lib/cloudformation-include";
import { CfnAlarm } from "aws-cdk-lib/aws-cloudwatch";
import { Construct } from "constructs";

/** infra/failover-lock.yaml, which `infra/deploy` deploys as well. The build copies it. */
export const TEMPLATE = join(__dirname, "..", "failover-lock.yaml");

/** What the CDK's validation reports of the template, which is as it should be. */
const FINDINGS = [
  { id: "CloudFormation-Validate::W1001", reason: "a reference to a conditional resource is in an Fn::If with its condition" },
  { id: "CloudFormation-Validate::W1028", reason: "a condition about a value that stands in the template" },
  { id: "CloudFormation-Validate::W1030", reason: "an empty parameter is used nowhere: a condition takes its place" },
  { id: "CloudFormation-Validate::W2503", reason: "a reference to a conditional resource is in an Fn::If with its condition" },
  { id: "CloudFormation-Validate::W3694", reason: "an alias is invoked as its function is" },
  { id: "CloudFormation-Validate::W8003", reason: "a condition, or a rule, about a value that stands in the template" },
  { id: "CloudFormation-Validate::W9003", reason: "a number as text, as a parameter's value is" },
];

/** The parameters of infra/failover-lock.yaml. One that is left out has the template's default. */
export interface FailoverLockParameters {
  /** The primary's Route 53 health check. Leave it out with guardedTag. */
  readonly healthCheckId?: string;
  /**
   * A tag as key or key=value, instead of healthCheckId. Every health check of the account that has it is guarded, and
   * its alarm is one of healthChecks, or yours; it notifies topicArn.
   */
  readonly guardedTag?: string;
  /** The secondary's health check. While it is also unhealthy, Route 53 answers with the primary, and no lock is set. */
  readonly secondaryHealthCheckId?: string;
  /** The same with guardedTag: the secondary's health check for each primary's. */
  readonly secondaryHealthChecks?: Readonly<Record<string, string>>;
  /**
   * The path of a health check in service. A restore sets the path from before the lock, or this one if that path is
   * unknown. Default: /lb-check
   */
  readonly healthyPath?: string;
  /** The path that never answers 2xx or 3xx. Default: /lb-check-failed-over */
  readonly lockedPath?: string;
  /**
   * Whether reconcile locks a health check again whose lock was undone without a restore. Otherwise it only reports it.
   * Default: false
   */
  readonly relockUndone?: boolean;
  /** The address that is notified of locks and of everything that needs an operator. AWS sends a request to confirm. */
  readonly notificationEmail?: string;
  /** An SNS topic of this Region that reaches people already, instead of notificationEmail. */
  readonly notificationTopicArn?: string;
  /**
   * The KMS key of notificationTopicArn, where it has one. Its policy has to let cloudwatch.amazonaws.com use it.
   */
  readonly notificationKeyArn?: string;
  /**
   * Where your people find docs/runbook.md. The alarms' descriptions, which their notifications contain, refer to its sections.
   * Default: docs/runbook.md
   */
  readonly runbookUrl?: string;
  /**
   * Whether the alarm acts. Set it to true when the primary is up and the alarm has been OK; it would lock a primary
   * that is not up yet. Default: false
   */
  readonly alarmActionsEnabled?: boolean;
  /** The metric that the alarm watches, in the namespace AWS/Route53. Default: HealthCheckStatus */
  readonly alarmMetric?: "HealthCheckStatus" | "HealthCheckPercentageHealthy";
  /**
   * The alarm goes off below this value. HealthCheckStatus is 1 or 0; for HealthCheckPercentageHealthy 18.1 is what
   * Route 53 fails over at. Default: 1
   */
  readonly alarmThreshold?: number;
  /** Seconds, a multiple of 60. Default: 60 */
  readonly alarmPeriod?: number;
  /** How many periods in a row have to be below the threshold. Default: 1 */
  readonly alarmEvaluationPeriods?: number;
  /** An existing SNS topic for the alarm, instead of a new one. */
  readonly topicArn?: string;
  /** An existing alarm that notifies topicArn, instead of a new one. It acts as soon as the stack exists. */
  readonly alarmName?: string;
  /** The functions' architecture, which is that of the artifact. Default: arm64 */
  readonly architecture?: "arm64" | "x86_64";
  /** MB of each function. 128 suffices, see docs/performance.md. Default: 128 */
  readonly memorySize?: number;
  /**
   * Executions of lock at once, reserved from the account's. 0 reserves none. With many health checks 4. Default: 0
   */
  readonly lockConcurrency?: number;
  /** How many days the functions' logs are kept. Default: 365 */
  readonly logRetentionDays?: number;
  /** Decide and log, change nothing. Default: false */
  readonly dryRun?: boolean;
  /**
   * The permissions boundary of the functions' roles, if the account requires one. It must allow what their policies
   * allow.
   */
  readonly permissionsBoundaryArn?: string;
  /** The path of the functions' roles. Default: / */
  readonly rolePath?: string;
  /**
   * An existing customer managed key of this Region for the stack's topics, its queue and its logs. Without it the stack
   * creates one for its topics. Its policy has to let CloudWatch, SNS and CloudWatch Logs use it, see docs/lock.md.
   */
  readonly keyArn?: string;
  /** Create the dashboard, which costs USD 3 a month. Default: true */
  readonly createDashboard?: boolean;
}

/** A health check that has the guarded tag, and the alarm on it. */
export interface GuardedHealthCheck {
  /** The health check's id. It may be a reference to another stack. */
  readonly healthCheckId: string;
  /** As in FailoverLockParameters. Default: false */
  readonly alarmActionsEnabled?: boolean;
  /** As in FailoverLockParameters. Default: HealthCheckStatus */
  readonly alarmMetric?: "HealthCheckStatus" | "HealthCheckPercentageHealthy";
  /** As in FailoverLockParameters. Default: 1 */
  readonly alarmThreshold?: number;
  /** As in FailoverLockParameters. Default: 60 */
  readonly alarmPeriod?: number;
  /** As in FailoverLockParameters. Default: 1 */
  readonly alarmEvaluationPeriods?: number;
}

/** The properties of FailoverLock. */
export interface FailoverLockProps extends FailoverLockParameters {
  /** The file of the functions' code, as infra/package builds it. */
  readonly artifact: string;
  /**
   * With guardedTag: the health checks to make an alarm for, by a key that becomes part of the alarm's name. Each has
   * the tag already.
   */
  readonly healthChecks?: Readonly<Record<string, GuardedHealthCheck>>;
  /** The stack's own properties. Default: the name failover, in us-east-1, where Route 53's metrics are. */
  readonly stack?: StackProps;
}

/**
 * The stack of infra/failover-lock.yaml. It is a stack of its own, because its name is the prefix of its resources'
 * names.
 */
export class FailoverLock extends Stack {
  /** The template's elements, for example `template.getResource("Restore")`. */
  public readonly template: CfnInclude;
  /** The topic that alarms notify so that lock acts. */
  public readonly topicArn: string;

  constructor(scope: Construct, id: string, props: FailoverLockProps) {
    const { artifact, healthChecks = {}, stack, ...parameters } = props;
    const region = stack?.env?.region ?? "us-east-1";
    super(scope, id, { stackName: "failover", ...stack, env: { ...stack?.env, region } });

    if (!/^[A-Za-z][A-Za-z0-9-]{0,53}$/.test(this.stackName)) {
      throw new Error(
        `stackName is ${this.stackName}: use a letter, then at most 53 letters, digits and hyphens. The functions' names ` +
          "add ten characters, and Lambda allows 64.",
      );
    }
    if (!Token.isUnresolved(region) && /^(af|ap|ca|eu|il|me|mx|sa|us)-[a-z]+-\d$/.test(region) && region !== "us-east-1") {
      throw new Error(
        `env.region is ${region}: Route 53's metrics are in us-east-1, and an alarm elsewhere sees none. Leave it out.`,
      );
    }
    if (Object.keys(healthChecks).length > 0 && parameters.guardedTag === undefined) {
      throw new Error(
        "healthChecks needs guardedTag: lock ignores the alarms of health checks that are not guarded. Give guardedTag, " +
          "and set the tag on each health check.",
      );
    }
    const architecture = parameters.architecture ?? "arm64";
    if (basename(artifact).includes(architecture === "arm64" ? "x86_64" : "arm64")) {
      throw new Error(
        `artifact is ${basename(artifact)}, and architecture is ${architecture}: the functions would not start. Run ` +
          `infra/package ${architecture}, or change architecture.`,
      );
    }

    // As infra/deploy names it: failoverctl doctor compares the hash with the functions' code.
    const hash = createHash("sha256").update(readFileSync(artifact)).digest("hex");
    const code = this.synthesizer.addFileAsset({
      fileName: resolve(artifact),
      packaging: FileAssetPackaging.FILE,
      sourceHash: `failover-lock-${architecture}-${hash}`,
    });

    // The values stand in the template, and are no parameters of the stack: `cdk deploy` would keep a parameter's
    // former value.
    const values: Record<string, string> = { CodeBucket: code.bucketName, CodeKey: code.objectKey };
    for (const [name, value] of Object.entries(parameters)) {
      if (value === undefined) continue;
      const text =
        typeof value === "object"
          ? Object.entries(value).map(([primary, secondary]) => `${primary}=${secondary}`).join(",")
          : String(value);
      if (Token.isUnresolved(value) || Token.isUnresolved(text)) {
        throw new Error(
          `${name} is known only at deployment, and the template's rules and conditions need it at synthesis. Give it as ` +
            "text; for a health check of another stack, set a tag on it, and give guardedTag and healthChecks.",
        );
      }
      values[name.charAt(0).toUpperCase() + name.slice(1)] = text;
    }
    // With each change of the template, of the artifact or of a parameter the functions are published as other versions. The
    // alarm's actions are no part of a function.
    const { CodeBucket, AlarmActionsEnabled, ...parts } = values;
    values.Deployment = createHash("sha256")
      .update(readFileSync(TEMPLATE))
      .update(JSON.stringify(Object.entries(parts).sort()))
      .digest("hex")
      .slice(0, 16);
    this.template = new CfnInclude(this, "Template", { templateFile: TEMPLATE, parameters: values });

    Validations.of(this).acknowledge(...FINDINGS);

    this.topicArn = parameters.topicArn ?? this.template.getResource("Topic").ref;
    const alarm = this.template.getResource("Alarm") as CfnAlarm;
    for (const [key, check] of Object.entries(healthChecks)) {
      new CfnAlarm(this, `Alarm-${key}`, {
        alarmName: `${this.stackName}-${key}-primary-unhealthy`,
        alarmDescription:
          `The primary's health check ${check.healthCheckId} fails, and ${this.stackName}-lock locks it. First: failoverctl ` +
          `status ${check.healthCheckId} Then: ${parameters.runbookUrl ?? "docs/runbook.md"}#failover-primary-unhealthy`,
        actionsEnabled: check.alarmActionsEnabled ?? false,
        alarmActions: [this.topicArn],
        namespace: alarm.namespace,
        metricName: check.alarmMetric ?? "HealthCheckStatus",
        dimensions: [{ name: "HealthCheckId", value: check.healthCheckId }],
        statistic: alarm.statistic,
        period: check.alarmPeriod ?? 60,
        evaluationPeriods: check.alarmEvaluationPeriods ?? 1,
        threshold: check.alarmThreshold ?? 1,
        comparisonOperator: alarm.comparisonOperator,
        treatMissingData: alarm.treatMissingData,
      }).addResourceDependency(this.template.getResource("Subscription"));
    }
  }
}

# The stack is infra/failover-lock.yaml itself. This module uploads it and the functions' artifact, passes the
# parameters that are given, and adds an alarm for each health check that the guarded tag covers.

data "aws_partition" "current" {}

locals {
  template = "${path.module}/../failover-lock.yaml"

  # A new template is a new folder, and so a new CodeKey. The provider reads a stack's parameters back, but not the URL
  # of its template: after an update that failed, Terraform would otherwise take the new template for deployed.
  folder = substr(filesha256(local.template), 0, 16)

  # A parameter that is null is not passed: the template's default applies.
  given = {
    HealthCheckId          = var.health_check_id
    GuardedTag             = var.guarded_tag
    SecondaryHealthCheckId = var.secondary_health_check_id
    SecondaryHealthChecks = var.secondary_health_checks == null ? null : join(",", [
      for primary, secondary in var.secondary_health_checks : "${primary}=${secondary}"
    ])
    HealthyPath            = var.healthy_path
    LockedPath             = var.locked_path
    RelockUndone           = var.relock_undone
    NotificationEmail      = var.notification_email
    NotificationTopicArn   = var.notification_topic_arn
    NotificationKeyArn     = var.notification_key_arn
    RunbookUrl             = var.runbook_url
    AlarmActionsEnabled    = var.alarm_actions_enabled
    AlarmMetric            = var.alarm_metric
    AlarmThreshold         = var.alarm_threshold
    AlarmPeriod            = var.alarm_period
    AlarmEvaluationPeriods = var.alarm_evaluation_periods
    TopicArn               = var.topic_arn
    AlarmName              = var.alarm_name
    CodeBucket             = aws_s3_object.artifact.bucket
    CodeKey                = aws_s3_object.artifact.key
    Architecture           = var.architecture
    MemorySize             = var.memory_size
    LockConcurrency        = var.lock_concurrency
    LogRetentionDays       = var.log_retention_days
    DryRun                 = var.dry_run
    PermissionsBoundaryArn = var.permissions_boundary_arn
    RolePath               = var.role_path
    KeyArn                 = var.key_arn
    CreateDashboard        = var.create_dashboard
  }
  passed = { for name, value in local.given : name => tostring(value) if value != null }

  # With each change of the template, of the artifact or of a parameter the functions are published as other versions. The
  # alarm's actions are no part of a function.
  deployment = substr(sha256(jsonencode([
    local.folder, [for name, value in local.passed : "${name}=${value}" if name != "AlarmActionsEnabled"]
  ])), 0, 16)
}

resource "aws_s3_object" "template" {
  region = var.region
  bucket = var.bucket
  key    = "${local.folder}/failover-lock.yaml"
  source = local.template

  # The former object is deleted when the stack no longer needs it, for a rollback too.
  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_s3_object" "artifact" {
  region = var.region
  bucket = var.bucket
  key    = "${local.folder}/failover-lock-${var.architecture}-${filesha256(var.artifact)}.zip"
  source = var.artifact

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_cloudformation_stack" "this" {
  region = var.region
  name   = var.name

  # CloudFormation accepts 51,200 bytes as a body, and 1 MB from a bucket. The path style serves any bucket's name.
  template_url = join("/", [
    "https://s3.${var.region}.${data.aws_partition.current.dns_suffix}",
    aws_s3_object.template.bucket,
    aws_s3_object.template.key,
  ])
  parameters   = merge(local.passed, { Deployment = local.deployment })
  capabilities = ["CAPABILITY_IAM"]
  tags         = var.tags

  lifecycle {
    precondition {
      condition     = data.aws_partition.current.partition != "aws" || var.region == "us-east-1"
      error_message = "region is ${var.region}: Route 53's metrics are in us-east-1, and an alarm elsewhere sees none. Leave region out."
    }
    precondition {
      condition     = length(var.health_checks) == 0 || var.guarded_tag != null
      error_message = "health_checks needs guarded_tag: lock ignores the alarms of health checks that are not guarded. Give guarded_tag, and set the tag on each health check."
    }
    precondition {
      condition     = length(regexall(var.architecture == "arm64" ? "x86_64" : "arm64", basename(var.artifact))) == 0
      error_message = "artifact is ${basename(var.artifact)}, and architecture is ${var.architecture}: the functions would not start. Run infra/package ${var.architecture}, or change architecture."
    }
  }
}

# The template's resource Alarm, for each of many health checks.
resource "aws_cloudwatch_metric_alarm" "primary_unhealthy" {
  for_each = var.health_checks

  region              = var.region
  alarm_name          = "${var.name}-${each.key}-primary-unhealthy"
  alarm_description   = "The primary's health check ${each.value.health_check_id} fails, and ${var.name}-lock locks it. First: failoverctl status ${each.value.health_check_id} Then: ${coalesce(var.runbook_url, "docs/runbook.md")}#failover-primary-unhealthy"
  actions_enabled     = each.value.alarm_actions_enabled
  alarm_actions       = [aws_cloudformation_stack.this.outputs["Topic"]]
  namespace           = "AWS/Route53"
  metric_name         = each.value.alarm_metric
  dimensions          = { HealthCheckId = each.value.health_check_id }
  statistic           = "Minimum"
  period              = each.value.alarm_period
  evaluation_periods  = each.value.alarm_evaluation_periods
  threshold           = each.value.alarm_threshold
  comparison_operator = "LessThanThreshold"
  treat_missing_data  = "missing"
  tags                = var.tags
}

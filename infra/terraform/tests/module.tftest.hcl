# Needs Terraform 1.7 or later, and no AWS account: the provider's answers are made up.

mock_provider "aws" {
  mock_data "aws_partition" {
    defaults = { partition = "aws", dns_suffix = "amazonaws.com" }
  }
  mock_resource "aws_cloudformation_stack" {
    defaults = {
      outputs = {
        Artifact       = "artifact"
        Topic          = "arn:aws:sns:us-east-1:123456789012:failover-alarms"
        Notifications  = "arn:aws:sns:us-east-1:123456789012:failover-notifications"
        Lock           = "failover-lock:live"
        Reconcile      = "failover-reconcile:live"
        Restore        = "failover-restore:live"
        DeadLetters    = "https://sqs.us-east-1.amazonaws.com/123456789012/failover-dead-letters"
        Status         = "status"
        RestoreCommand = "restore"
      }
    }
  }
}

variables {
  bucket             = "code"
  artifact           = "main.tf" # any file
  notification_email = "sre@example.com"
}

run "only_what_is_given_is_passed" {
  variables {
    health_check_id         = "primary"
    alarm_threshold         = 18.1
    secondary_health_checks = { a = "b", c = "d" }
    dry_run                 = true
    alarm_actions_enabled   = true
  }

  assert {
    condition = aws_cloudformation_stack.this.parameters == tomap({
      HealthCheckId         = "primary"
      AlarmActionsEnabled   = "true"
      AlarmThreshold        = "18.1"
      SecondaryHealthChecks = "a=b,c=d"
      DryRun                = "true"
      NotificationEmail     = "sre@example.com"
      Architecture          = "arm64"
      CodeBucket            = "code"
      CodeKey               = aws_s3_object.artifact.key
      Deployment            = local.deployment
    })
    error_message = "The parameters are others."
  }
  assert {
    condition = local.deployment == substr(sha256(jsonencode([local.folder, [
      "AlarmThreshold=18.1", "Architecture=arm64", "CodeBucket=code", "CodeKey=${aws_s3_object.artifact.key}", "DryRun=true",
      "HealthCheckId=primary", "NotificationEmail=sre@example.com", "SecondaryHealthChecks=a=b,c=d",
    ]])), 0, 16)
    error_message = "The deployment does not follow from the template, the artifact and the functions' parameters."
  }
  assert {
    condition     = aws_cloudformation_stack.this.template_url == "https://s3.us-east-1.amazonaws.com/code/${aws_s3_object.template.key}"
    error_message = "The template's URL is another."
  }
  assert {
    condition     = output.alarm == null && output.restore == "failover-restore:live"
    error_message = "The outputs are others."
  }
}

run "each_health_check_has_an_alarm_on_the_stacks_topic" {
  variables {
    guarded_tag = "failover=lock"
    health_checks = {
      shop  = { health_check_id = "shop-id" }
      login = { health_check_id = "login-id", alarm_actions_enabled = true, alarm_evaluation_periods = 3 }
    }
  }

  assert {
    condition     = output.alarms == { shop = "failover-shop-primary-unhealthy", login = "failover-login-primary-unhealthy" }
    error_message = "The alarms' names are others."
  }
  assert {
    condition = alltrue([
      for alarm in aws_cloudwatch_metric_alarm.primary_unhealthy : alarm.alarm_actions == toset([output.topic])
    ])
    error_message = "An alarm notifies another topic."
  }
  assert {
    condition     = { for key, alarm in aws_cloudwatch_metric_alarm.primary_unhealthy : key => alarm.actions_enabled } == { shop = false, login = true }
    error_message = "An alarm acts that should not, or the other way round."
  }
}

run "another_region_sees_no_metric" {
  command = plan
  variables {
    health_check_id = "primary"
    region          = "eu-west-1"
  }
  expect_failures = [aws_cloudformation_stack.this]
}

run "a_health_check_without_the_tag_is_not_guarded" {
  command = plan
  variables {
    health_check_id = "primary"
    health_checks   = { shop = { health_check_id = "shop-id" } }
  }
  expect_failures = [aws_cloudformation_stack.this]
}

run "a_status_is_one_or_zero" {
  command = plan
  variables {
    guarded_tag   = "failover=lock"
    health_checks = { shop = { health_check_id = "shop-id", alarm_threshold = 18.1 } }
  }
  expect_failures = [var.health_checks]
}

run "a_name_is_short_enough_for_lambda" {
  command = plan
  variables {
    health_check_id = "primary"
    name            = "a-name-that-has-more-characters-than-the-54-that-are-left"
  }
  expect_failures = [var.name]
}

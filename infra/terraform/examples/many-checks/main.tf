# Many health checks, which Terraform manages, one stack that guards all that have its tag, and an alarm for each.

terraform {
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.0"
    }
  }
}

variable "bucket" {
  description = "An existing bucket in us-east-1."
  type        = string
}

variable "artifact" {
  description = "The file of the functions' code, as infra/package arm64 builds it."
  type        = string
}

variable "primaries" {
  description = "The primaries' host names, and which of them are up: a primary is set to true when it is up and its alarm has been OK."
  type        = map(bool)
  default = {
    "shop.example.com"  = false
    "login.example.com" = false
  }
}

resource "aws_route53_health_check" "primary" {
  for_each = var.primaries

  type              = "HTTPS"
  fqdn              = each.key
  port              = 443
  resource_path     = "/lb-check"
  failure_threshold = 3
  request_interval  = 30
  tags              = { failover = "lock" }

  # Without this the next apply undoes a lock, and deletes its record.
  lifecycle {
    ignore_changes = [resource_path, tags, tags_all]
  }
}

module "failover" {
  source = "../.."

  bucket             = var.bucket
  artifact           = var.artifact
  guarded_tag        = "failover=lock"
  lock_concurrency   = 4
  notification_email = "sre@example.com"

  health_checks = {
    for name, is_up in var.primaries : replace(name, ".", "-") => {
      health_check_id          = aws_route53_health_check.primary[name].id
      alarm_actions_enabled    = is_up
      alarm_evaluation_periods = 3
    }
  }
}

output "alarms" {
  description = "The alarms' names."
  value       = module.failover.alarms
}

# One health check, which Terraform manages, and a stack that guards it.

terraform {
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.0"
    }
  }
}

variable "bucket" {
  description = "A name for the bucket of the functions' code."
  type        = string
}

variable "artifact" {
  description = "The file of the functions' code, as infra/package builds it."
  type        = string
}

variable "architecture" {
  description = "The artifact's: arm64 or x86_64."
  type        = string
  default     = "arm64"
}

variable "primary_is_up" {
  description = "Set it to true when the primary is up and its alarm has been OK."
  type        = bool
  default     = false
}

resource "aws_route53_health_check" "primary" {
  type              = "HTTPS"
  fqdn              = "primary.example.com"
  port              = 443
  resource_path     = "/lb-check"
  failure_threshold = 3
  request_interval  = 30

  # Without this the next apply undoes a lock, and deletes its record.
  lifecycle {
    ignore_changes = [resource_path, tags, tags_all]
  }
}

resource "aws_s3_bucket" "code" {
  region = "us-east-1"
  bucket = var.bucket
}

resource "aws_s3_bucket_public_access_block" "code" {
  region                  = "us-east-1"
  bucket                  = aws_s3_bucket.code.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

module "failover" {
  source = "../.."

  bucket                = aws_s3_bucket.code.id
  artifact              = var.artifact
  architecture          = var.architecture
  health_check_id       = aws_route53_health_check.primary.id
  notification_email    = "sre@example.com"
  alarm_actions_enabled = var.primary_is_up
  tags                  = { team = "sre" }
}

output "health_check_id" {
  description = "For failoverctl: status, restore, doctor."
  value       = aws_route53_health_check.primary.id
}

output "status" {
  description = "Prints the path of the health check, which decides whether it is locked."
  value       = module.failover.status
}
